"""Applications behind a proxy, on plain blocking sockets: what they measure is the proxy, not a client library."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

_PIECE = bytes(256 * 1024)


@dataclass(frozen=True, slots=True)
class Route:
    """How an origin on 127.0.0.1 is reached."""

    port: int
    """Of the origin."""
    tls: ssl.SSLContext | None = None
    proxy: int | None = None
    """Port of the proxy; None: directly."""

    @property
    def connect(self) -> bytes:
        return f"CONNECT 127.0.0.1:{self.port} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()

    def request(self, method: str, path: str, more: str = "") -> bytes:
        prefix = f"http://127.0.0.1:{self.port}" if self.proxy and not self.tls else ""
        return (
            f"{method} {prefix}{path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUser-Agent: bench\r\n"
            f"Accept: */*\r\n{more}\r\n"
        ).encode()


class Client:
    """One keep-alive connection."""

    def __init__(self, route: Route) -> None:
        self._socket = socket.create_connection(("127.0.0.1", route.proxy or route.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if route.proxy and route.tls:
            self._socket.sendall(route.connect)
            self._head()
        if route.tls:
            self._socket = route.tls.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._route, self._small = route, route.request("GET", "/small")

    def get(self) -> float:
        """One small request; its seconds."""
        began = time.perf_counter()
        self.ask()
        self._body()
        return time.perf_counter() - began

    def length_of_answer(self) -> int:
        """Bytes of the answer to a small request, head and all."""
        self.ask()
        head, begun = self._head()
        left = _length(head) - len(begun)
        while left:
            left -= self.receive(left)
        return len(head) + len(b"\r\n\r\n") + _length(head)

    @property
    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self) -> None:
        self._socket.sendall(self._small)

    def receive(self, at_most: int = 65536) -> int:
        """How many bytes came. Raises EOFError."""
        if not (received := self._socket.recv(at_most)):
            raise EOFError("the answer broke off")
        return len(received)

    def download(self, size: int) -> None:
        self._socket.sendall(self._route.request("GET", f"/{size}"))
        self._body()

    def upload(self, size: int) -> None:
        self._socket.sendall(self._route.request("POST", "/", f"Content-Length: {size}\r\n"))
        for start in range(0, size, len(_PIECE)):
            self._socket.sendall(_PIECE[: size - start])
        self._body()

    def _body(self) -> None:
        head, rest = self._head()
        left = _length(head) - len(rest)
        while left:
            left -= self.receive(min(left, len(_PIECE)))

    def _head(self) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            if not (more := self._socket.recv(65536)):
                raise EOFError(f"no answer, but {received!r}")
            received += more
        head, _, rest = received.partition(b"\r\n\r\n")
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            raise ValueError(head.decode("latin-1"))
        return head, rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()


def latencies_s(route: Route, clients: int, requests: int) -> list[float]:
    """Seconds of each of `requests` small requests, shared among `clients` that ask at the same time."""
    if clients == 1:
        with Client(route) as client:
            client.get()  # the connections behind it exist now
            return [client.get() for _ in range(requests)]
    return asyncio.run(_together(route, clients, requests // clients))


def answered_per_s(route: Route, clients: int, seconds: float) -> float:
    """Small requests over plain http, each client's next one as soon as it has its answer.

    On a bare epoll, for proxies that are to have the processor to themselves. All answers are of one length.
    """
    asking, size = {}, 0
    with select.epoll() as poll, ExitStack() as open_ones:
        for _ in range(clients):
            client = open_ones.enter_context(Client(route))
            size = client.length_of_answer()
            asking[client.fileno] = client
            poll.register(client.fileno, select.EPOLLIN)
        left = dict.fromkeys(asking, size)
        answered, began = 0, time.perf_counter()
        for client in asking.values():
            client.ask()
        while (taken := time.perf_counter() - began) < seconds:
            for descriptor, _ in poll.poll():
                left[descriptor] -= asking[descriptor].receive()
                if not left[descriptor]:
                    answered += 1
                    left[descriptor] = size
                    asking[descriptor].ask()
        return answered / taken


async def _together(route: Route, clients: int, requests: int) -> list[float]:
    """One event loop: threads would measure how Python hands its lock around."""
    taken = await asyncio.gather(*(_ask(route, requests) for _ in range(clients)))
    return [seconds for of_one in taken for seconds in of_one]


async def _ask(route: Route, requests: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", route.proxy or route.port)
    if route.proxy and route.tls:
        writer.write(route.connect)
        await reader.readuntil(b"\r\n\r\n")
    if route.tls:
        await writer.start_tls(route.tls, server_hostname="127.0.0.1")
    small, taken = route.request("GET", "/small"), []
    for _ in range(requests + 1):
        began = time.perf_counter()
        writer.write(small)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head))
        taken.append(time.perf_counter() - began)
    writer.close()
    return taken[1:]


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
