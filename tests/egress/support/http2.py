"""HTTP/2 on h2 itself: a server that follows a script, stream by stream, and an application that sees everything."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

import h2.config
import h2.connection
import h2.events

from tests.egress.support.client import App
from tests.egress.support.upstream import Upstream
from tests.egress.support.wire import Message


class Stream:
    """One request; the script answers it with `head`, `data` and `end`, or with `reset`."""

    def __init__(self, connection: Http2Connection, stream_id: int, message: Message) -> None:
        self.connection, self.id, self.message = connection, stream_id, message
        self.complete = asyncio.Event()

    @property
    def paid(self) -> bool:
        return self.message.get("payment-signature") is not None

    async def head(self, status: int, headers: dict[str, str] | None = None, *, end: bool = False) -> None:
        fields = [(":status", str(status)), *((headers or {}).items())]
        self.connection.h2.send_headers(self.id, fields, end_stream=end)
        await self.connection.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        self.connection.h2.send_data(self.id, data, end_stream=end)
        await self.connection.flush()

    async def trailers(self, headers: dict[str, str]) -> None:
        self.connection.h2.send_headers(self.id, list(headers.items()), end_stream=True)
        await self.connection.flush()

    async def reset(self) -> None:
        self.connection.h2.reset_stream(self.id)
        await self.connection.flush()


class Http2Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        script: Http2Script,
        upstream: Upstream,
    ) -> None:
        self.reader, self.writer, self.script, self.upstream = reader, writer, script, upstream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.streams: dict[int, Stream] = {}
        self.resets: asyncio.Queue[int] = asyncio.Queue()

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    def close(self) -> None:
        self.writer.transport.abort()

    async def run(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        async with asyncio.TaskGroup() as scripts:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._handle(event, scripts)
                await self.flush()

    def _handle(self, event: h2.events.Event, scripts: asyncio.TaskGroup) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = {str(name): str(value) for name, value in event.headers}
            message = Message(f"{fields[':method']} {fields[':path']} HTTP/2", list(fields.items()))
            self.upstream.requests.append(message)
            stream = self.streams[event.stream_id] = Stream(self, event.stream_id, message)
            scripts.create_task(self.script(stream))
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].message.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].complete.set()
        elif isinstance(event, h2.events.StreamReset):
            self.resets.put_nowait(event.stream_id)


type Http2Script = Callable[[Stream], Awaitable[None]]


@asynccontextmanager
async def serving_http2(script: Http2Script, tls: ssl.SSLContext) -> AsyncIterator[Upstream]:
    upstream = Upstream(0, "https")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        try:
            await Http2Connection(reader, writer, script, upstream).run()
        except ConnectionError:
            pass
        except Exception as failure:  # noqa: BLE001 reported below, in the test's own task
            upstream.failures.append(failure)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        server.close_clients()
    assert upstream.failures == []


class Http2App:
    """An application with one HTTP/2 connection through egress. Use as `async with Http2App(app) as app:`."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.seen: dict[int, list[str]] = {}

    async def __aenter__(self) -> Self:
        await self.app.__aenter__()
        self.h2.initiate_connection()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.app.writer.close()

    async def request(self, path: str, headers: dict[str, str] | None = None) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        authority = f"127.0.0.1:{self.app.upstream.port}"
        pseudo = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        self.h2.send_headers(stream_id, list({**pseudo, **(headers or {})}.items()), end_stream=True)
        await self.app.write(self.h2.data_to_send())
        self.seen[stream_id] = []
        return stream_id

    async def reset(self, stream_id: int) -> None:
        self.h2.reset_stream(stream_id)
        await self.app.write(self.h2.data_to_send())

    async def until(self, stream_id: int, last: str) -> list[str]:
        """Everything seen on the stream, once `last` is."""
        while last not in self.seen[stream_id]:
            for event in self.h2.receive_data(await self.app.reader.read(65536)):
                if text := _shown(event):
                    self.seen[event.stream_id].append(text)  # type: ignore[attr-defined]
            await self.app.write(self.h2.data_to_send())
        return self.seen[stream_id]


def _shown(event: h2.events.Event) -> str | None:
    match event:
        case h2.events.InformationalResponseReceived():
            status, *fields = event.headers
            return " ".join([str(status[1]), *(f"{name}={value}" for name, value in fields)])
        case h2.events.ResponseReceived():
            return str(event.headers[0][1])
        case h2.events.DataReceived():
            return event.data.decode() or None
        case h2.events.TrailersReceived():
            return " ".join(["trailers", *(f"{name}={value}" for name, value in event.headers)])
        case h2.events.StreamEnded():
            return "end"
        case _:
            return None
