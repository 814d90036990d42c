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
from hyperframe.frame import GoAwayFrame

from tests.egress.support.client import App
from tests.egress.support.upstream import Upstream
from tests.egress.support.wire import Message


class Stream:
    """One request; the script answers it with `head`, `data` and `end`, or with `reset`."""

    def __init__(self, connection: Http2Connection, stream_id: int, message: Message) -> None:
        self.connection, self.id, self.message = connection, stream_id, message
        self.complete = asyncio.Event()
        self.pieces: list[bytes] = []
        """Of the request's body, joined in `message` once it is complete."""
        self._taken = 0

    async def next_piece(self) -> bytes | None:
        """The next DATA of the request, None after the last."""
        while self._taken == len(self.pieces):
            if self.complete.is_set():
                return None
            await self.connection.news()
        self._taken += 1
        return self.pieces[self._taken - 1]

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

    async def window(self, size: int) -> None:
        """Return when `size` bytes may be sent."""
        while self.connection.h2.local_flow_control_window(self.id) < size:
            await self.connection.news()

    async def trailers(self, headers: dict[str, str]) -> None:
        self.connection.h2.send_headers(self.id, list(headers.items()), end_stream=True)
        await self.connection.flush()

    async def reset(self, code: int = 0) -> None:
        self.connection.h2.reset_stream(self.id, code)
        await self.connection.flush()

    async def go_away(self, last_stream_id: int) -> None:
        """GOAWAY without an error, as a server sends that shuts down in peace. h2 itself would fall silent after it."""
        self.connection.writer.write(GoAwayFrame(0, last_stream_id=last_stream_id).serialize())
        await self.connection.flush()


class _Acknowledging:
    """Gives the other side its window back as data comes, except on the streams in `hold`."""

    h2: h2.connection.H2Connection

    def __init__(self) -> None:
        self.hold: set[int] = set()
        self._held: dict[int, int] = {}
        self._news = asyncio.Event()

    def open(self) -> None:
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(
            1 << 20
        )  # so that one stream that is held leaves room for others

    async def news(self) -> None:
        """Return when something has been received."""
        await self._news.wait()

    async def flush(self) -> None:
        raise NotImplementedError

    def acknowledge(self, event: h2.events.DataReceived) -> None:
        size = event.flow_controlled_length
        if event.stream_id in self.hold:
            self._held[event.stream_id] = self._held.get(event.stream_id, 0) + size
        else:
            self.h2.acknowledge_received_data(size, event.stream_id)

    async def let_go(self, stream_id: int) -> None:
        self.hold.discard(stream_id)
        if held := self._held.pop(stream_id, 0):
            self.h2.acknowledge_received_data(held, stream_id)
        await self.flush()

    def tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Http2Connection(_Acknowledging):
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        script: Http2Script,
        upstream: Upstream,
    ) -> None:
        super().__init__()
        self.reader, self.writer, self.script, self.upstream = reader, writer, script, upstream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.streams: dict[int, Stream] = {}
        self.resets: asyncio.Queue[int] = asyncio.Queue()
        self.ended = asyncio.Event()
        """Set when the other side has closed."""

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    def close(self) -> None:
        self.writer.transport.abort()

    async def run(self) -> None:
        self.open()
        await self.flush()
        async with asyncio.TaskGroup() as scripts:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._handle(event, scripts)
                self.tell()
                await self.flush()
            self.ended.set()

    def _handle(self, event: h2.events.Event, scripts: asyncio.TaskGroup) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = {str(name): str(value) for name, value in event.headers}
            message = Message(f"{fields[':method']} {fields[':path']} HTTP/2", list(fields.items()))
            self.upstream.requests.append(message)
            stream = self.streams[event.stream_id] = Stream(self, event.stream_id, message)
            scripts.create_task(self.script(stream))
        elif isinstance(event, h2.events.DataReceived):
            if event.data:
                self.streams[event.stream_id].pieces.append(event.data)
            self.acknowledge(event)
        elif isinstance(event, h2.events.StreamEnded):
            stream = self.streams[event.stream_id]
            stream.message.body = b"".join(stream.pieces)
            stream.complete.set()
        elif isinstance(event, h2.events.StreamReset):
            self.resets.put_nowait(event.stream_id)


type Http2Script = Callable[[Stream], Awaitable[None]]


@asynccontextmanager
async def serving_http2(
    script: Http2Script, tls: ssl.SSLContext, *, max_concurrent_streams: int = 100
) -> AsyncIterator[Upstream]:
    upstream = Upstream(0, "https")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        upstream.writers.append(writer)
        try:
            connection = Http2Connection(reader, writer, script, upstream)
            connection.h2.local_settings.max_concurrent_streams = max_concurrent_streams
            connection.h2.local_settings.acknowledge()  # otherwise h2 sends out its defaults
            await connection.run()
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
        upstream.close_clients()
    assert upstream.failures == []


class Http2App(_Acknowledging):
    """An application with one HTTP/2 connection through egress. Use as `async with Http2App(app) as app:`."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self.app = app
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.seen: dict[int, list[str]] = {}
        self.received: dict[int, int] = {}
        """Bytes of answers' bodies, by stream."""
        self.sent: dict[int, int] = {}
        """Bytes of `send_body`, by stream."""
        self._pinged = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.app.__aenter__()
        self.open()
        await self.flush()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._reading.cancel()
        self.app.writer.close()

    async def flush(self) -> None:
        await self.app.write(self.h2.data_to_send())

    async def request(self, path: str, headers: dict[str, str] | None = None, *, end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        authority = f"127.0.0.1:{self.app.upstream.port}"
        pseudo = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        self.h2.send_headers(stream_id, list({**pseudo, **(headers or {})}.items()), end_stream=end)
        self.seen[stream_id] = []
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream_id, data, end_stream=end)
        await self.flush()

    async def send_body(self, stream_id: int, size: int) -> None:
        """Send `size` bytes, as the window allows it, and end the request."""
        self.sent[stream_id] = 0
        while (left := size - self.sent[stream_id]) > 0:
            if window := min(self.h2.local_flow_control_window(stream_id), 16_384, left):
                await self.send(stream_id, bytes(window))
                self.sent[stream_id] += window
            else:
                await self.news()
        await self.send(stream_id, b"", end=True)

    async def reset(self, stream_id: int) -> None:
        self.h2.reset_stream(stream_id)
        await self.flush()

    async def heard(self) -> None:
        """Return when egress has read all that was sent before."""
        self._pinged.clear()
        self.h2.ping(bytes(8))
        await self.flush()
        await self._pinged.wait()

    async def until(self, stream_id: int, last: str) -> list[str]:
        """Everything seen on the stream, once `last` is."""
        while last not in self.seen[stream_id]:
            if self._reading.done():
                self._reading.result()
                raise EOFError(self.seen)
            await self.news()
        return self.seen[stream_id]

    async def _read(self) -> None:
        try:
            while data := await self.app.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._handle(event)
                await self.flush()
                self.tell()
        finally:
            self.tell()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.received[event.stream_id] = self.received.get(event.stream_id, 0) + len(event.data)
            self.acknowledge(event)
        elif isinstance(event, h2.events.PingAckReceived):
            self._pinged.set()
        if text := _shown(event):
            self.seen[event.stream_id].append(text)  # type: ignore[attr-defined]


def _shown(event: h2.events.Event) -> str | None:
    match event:
        case h2.events.InformationalResponseReceived():
            status, *fields = event.headers
            return " ".join([str(status[1]), *(f"{name}={value}" for name, value in fields)])
        case h2.events.ResponseReceived():
            return str(event.headers[0][1])
        case h2.events.DataReceived():
            return event.data.decode() if 0 < len(event.data) < 1024 else None
        case h2.events.TrailersReceived():
            return " ".join(["trailers", *(f"{name}={value}" for name, value in event.headers)])
        case h2.events.StreamEnded():
            return "end"
        case _:
            return None
