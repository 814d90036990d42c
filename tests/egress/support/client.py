"""An application behind the proxy, on raw sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from types import TracebackType
from typing import Self

from tests.egress.support.upstream import Upstream
from tests.egress.support.wire import Message, read_message


class App:
    """One connection to egress: for plain http as it is, for https as a CONNECT tunnel with TLS inside.

    Use as `async with App(egress_address, upstream, tls) as app:`.
    """

    def __init__(
        self,
        egress: tuple[str, int],
        upstream: Upstream,
        tls: ssl.SSLContext | None = None,
        *,
        sni: str | None = None,
        host: str = "127.0.0.1",
        limit: int | None = None,
    ) -> None:
        """`limit`: bytes that are taken before anybody reads, here and by the kernel; by default these are many MiB."""
        self.host = host
        self.egress = egress
        self.upstream = upstream
        self.tls = tls
        self.limit = limit
        self.sni = sni
        self.connect_answer: Message | None = None

    async def __aenter__(self) -> Self:
        if self.limit is None:
            self.reader, self.writer = await asyncio.open_connection(*self.egress)
        else:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.limit)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self.egress)
            self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=self.limit)
        if self.upstream.scheme == "https":
            await self.tunnel()
            if self.tls is not None:
                await self.writer.start_tls(self.tls, server_hostname=self.sni or self.host)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.writer.close()

    async def tunnel(self) -> Message:
        authority = f"{self.host}:{self.upstream.port}"
        self.writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.connect_answer = Message(head.decode().split("\r\n")[0], [])
        return self.connect_answer

    async def send(
        self, path: str = "/a", *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> None:
        authority = f"{self.host}:{self.upstream.port}"
        target = f"http://{authority}{path}" if self.upstream.scheme == "http" else path
        fields = {
            "Host": authority,
            **{_name(key): value for key, value in headers.items()},
        }
        if body is not None and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in fields.items()),
            "",
            "",
        ]
        await self.write("\r\n".join(lines).encode() + (body or b""))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> Message:
        return await read_message(self.reader, head_only=head_only)

    async def get(self, path: str = "/a", **options: object) -> Message:
        await self.send(path, **options)  # type: ignore[arg-type]
        return await self.answer()


def _name(keyword: str) -> str:
    """`X_402_Intent` → `X-402-Intent`."""
    return keyword.replace("_", "-")
