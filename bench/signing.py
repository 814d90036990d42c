"""Clients that ask keyd for payments and cost next to nothing themselves: requests made beforehand, plain sockets.

With `keyd.client` the figures would be those of the client as much as of keyd. Every request has a fingerprint of
its own; one that was asked for before would be answered without a decision.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

NETWORK = "eip155:84532"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
SELLER = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
DOMAIN = "api.example.com"
OFFER = {
    "scheme": "exact",
    "network": NETWORK,
    "amount": "1000",
    "asset": USDC,
    "payTo": SELLER,
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}


def sign_requests() -> Iterator[bytes]:
    """Endless `POST /x402/sign`, as egress sends it, each for another request of an application."""
    for number in itertools.count():
        body = json.dumps(
            {
                "origin": {"scheme": "https", "host": DOMAIN, "port": 443},
                "method": "GET",
                "path": "/weather",
                "fingerprint": f"{number:064x}",
                "caller": {"uid": 1000},
                "x402_version": 2,
                "offers": [OFFER],
                "started_at": time.time_ns() // 1000,
            }
        ).encode()
        yield (
            b"POST /x402/sign HTTP/1.1\r\nHost: keyd\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


class OneClient:
    """One connection, one request at a time."""

    def __init__(self, path: Path, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))

    def latencies_ms(self, count: int) -> list[float]:
        taken = []
        for request in itertools.islice(self._requests, count):
            began = time.perf_counter()
            self._socket.sendall(request)
            answer = b""
            while not _is_whole(answer):
                if not (more := self._socket.recv(65536)):
                    raise ConnectionError("keyd closed the connection")
                answer += more
            taken.append((time.perf_counter() - began) * 1e3)
            _check(answer)
        return taken

    def close(self) -> None:
        self._socket.close()


class ManyClients:
    """A number of connections, each with one request at a time, from one loop."""

    def __init__(self, path: Path, requests: Iterator[bytes], clients: int) -> None:
        self._path = path
        self._requests = requests
        self._clients = clients

    def per_second(self, count: int) -> float:
        """Signatures in a second, while `count` are made."""
        prepared = list(itertools.islice(self._requests, count))
        return asyncio.run(self._run(prepared))

    async def _run(self, prepared: list[bytes]) -> float:
        loop = asyncio.get_running_loop()
        clients = []
        for _ in range(self._clients):
            _, client = await loop.create_unix_connection(lambda: _Client(prepared), str(self._path))
            clients.append(client)
        count, began = len(prepared), time.perf_counter()
        for client in clients:
            client.next()
        await asyncio.gather(*(client.done for client in clients))
        return count / (time.perf_counter() - began)


class _Client(asyncio.Protocol):
    def __init__(self, prepared: list[bytes]) -> None:
        self._prepared = prepared
        self._answer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def next(self) -> None:
        if self._prepared:
            self._transport.write(self._prepared.pop())
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if _is_whole(self._answer):
            try:
                _check(self._answer)
            except RuntimeError as error:
                self.done.set_exception(error)
                self._transport.close()
                return
            self._answer = b""
            self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("keyd closed the connection"))


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def _check(answer: bytes) -> None:
    """A refusal is faster than a payment: one must not be counted as the other."""
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"keyd did not sign: {answer[-300:]!r}")
