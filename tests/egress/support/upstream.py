"""Upstream servers that follow a script, connection by connection, on raw sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.egress.support.wire import Message, read_message


@dataclass
class Connection:
    """One accepted connection, numbered from 1."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    log: list[Message]

    async def request(self, *, head_only: bool = False) -> Message:
        message = await read_message(self.reader, head_only=head_only)
        self.log.append(message)
        return message

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.transport.abort()


type Script = Callable[[Connection], Awaitable[None]]


@dataclass
class Upstream:
    port: int
    scheme: str
    requests: list[Message] = field(default_factory=list)
    """All requests in order of arrival."""
    connections: int = 0
    """Connections accepted so far."""
    open: int = 0
    """Connections whose script has not ended; `idle` is set while there are none."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[BaseException] = field(default_factory=list)
    close: Callable[[], None] = lambda: None
    """Stop listening; connections that are open live on."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    """Of all connections. `Server.close_clients` would know them, from Python 3.13 on."""

    def url(self, path: str = "/a") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def close_clients(self) -> None:
        for writer in self.writers:
            writer.close()


@asynccontextmanager
async def serving(
    script: Script, tls: ssl.SSLContext | None = None, *, receive_buffer: int | None = None
) -> AsyncIterator[Upstream]:
    """Run `script` for each connection. Its end closes the connection; its failure fails the test.

    `receive_buffer`: bytes that the kernel takes for a server that does not read; by default it may take many MiB.
    """
    upstream = Upstream(0, "https" if tls else "http")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        upstream.writers.append(writer)
        upstream.open += 1
        upstream.idle.clear()
        try:
            await script(Connection(upstream.connections, reader, writer, upstream.requests))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side hung up where the script expected more: the test sees what it got
        except Exception as failure:  # noqa: BLE001 reported below, in the test's own task
            upstream.failures.append(failure)
        finally:
            writer.close()
            upstream.open -= 1
            if not upstream.open:
                upstream.idle.set()

    listener = socket.create_server(("127.0.0.1", 0))
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    server = await asyncio.start_server(accept, sock=listener, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    upstream.close = server.close
    try:
        yield upstream
    finally:
        server.close()
        upstream.close_clients()
    assert upstream.failures == []


def selling(
    answer: Callable[[Message], bytes], refusal: Callable[[Message], bytes], *, close: bool = False
) -> Script:
    """402 (`refusal`) to every request without a payment header, `answer` to every one with it."""

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            paid = request.get("PAYMENT-SIGNATURE") or request.get("X-PAYMENT")
            await connection.send(answer(request) if paid else refusal(request))
            if close:
                return

    return script
