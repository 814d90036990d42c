"""Applications behind a proxy, on plain blocking sockets: what they measure is the proxy, not a client library."""

from __future__ import annotations

import socket
import ssl
import threading
import time
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


class Client:
    """One keep-alive connection."""

    def __init__(self, route: Route) -> None:
        self._socket = socket.create_connection(("127.0.0.1", route.proxy or route.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = f"127.0.0.1:{route.port}"
        self._prefix = f"http://{self._host}" if route.proxy and not route.tls else ""
        if route.proxy and route.tls:
            self._socket.sendall(f"CONNECT {self._host} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
            self._head()
        if route.tls:
            self._socket = route.tls.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._small = self._request("GET", "/small")

    def get(self) -> float:
        """One small request; its seconds."""
        began = time.perf_counter()
        self._socket.sendall(self._small)
        self._body()
        return time.perf_counter() - began

    def download(self, size: int) -> None:
        self._socket.sendall(self._request("GET", f"/{size}"))
        self._body()

    def upload(self, size: int) -> None:
        self._socket.sendall(self._request("POST", "/", f"Content-Length: {size}\r\n"))
        for start in range(0, size, len(_PIECE)):
            self._socket.sendall(_PIECE[: size - start])
        self._body()

    def _request(self, method: str, path: str, more: str = "") -> bytes:
        return (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: bench\r\n"
            f"Accept: */*\r\n{more}\r\n"
        ).encode()

    def _body(self) -> None:
        head, rest = self._head()
        left = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0]) - len(rest)
        while left:
            received = self._socket.recv(min(left, len(_PIECE)))
            if not received:
                raise EOFError("the answer broke off")
            left -= len(received)

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
    taken: list[float] = []
    faults: list[Exception] = []

    def ask() -> None:
        try:
            with Client(route) as client:
                client.get()  # the connections behind it exist now
                taken.extend([client.get() for _ in range(requests // clients)])
        except Exception as fault:  # noqa: BLE001 raised below, in the caller's thread
            faults.append(fault)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return taken
