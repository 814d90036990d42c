"""Who reads slowly slows its own sender down: egress keeps little, and everybody else goes on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2App, Stream, serving_http2
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.upstream import Connection
from tests.egress.support.wire import TERMS, encode, response
from tests.loopback import RECEIVE_BUFFER, SEND_BUFFER

MIB = 1024 * 1024
HELD_AT_MOST = 2 * (SEND_BUFFER + RECEIVE_BUFFER) + 8 * MIB
"""What may lie between the two ends: buffers of the kernel on both sides, and some of egress's own."""
LARGE = 2 * HELD_AT_MOST // MIB * MIB
"""More than may lie there by far: a proxy that does not wait for its reader is found with all of it."""


class Flood:
    """Counts the bytes that one end could get rid of; `stuck` returns when no more go."""

    def __init__(self) -> None:
        self.sent = 0
        self.stopped = asyncio.Event()

    async def pour(self, writer: asyncio.StreamWriter, limit: int) -> None:
        piece = bytes(64 * 1024)
        while self.sent < limit and not self.stopped.is_set():
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)

    async def stuck(self) -> int:
        return await _settled(lambda: self.sent)


async def test_a_download_waits_for_a_client_that_does_not_read(world: World) -> None:
    flood = Flood()

    async def script(connection: Connection) -> None:
        request = await connection.request()
        if request.target == "/small":
            await connection.send(response(200, {}, b"ok"))
            return
        await connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n".encode())
        await flood.pour(connection.writer, LARGE)

    async with world.serving(script, tls=True) as upstream, world.app(upstream) as slow:
        await slow.send("/large")
        assert await flood.stuck() < HELD_AT_MOST
        async with world.app(upstream) as other:
            assert (await other.get("/small")).body == b"ok"
        await slow.answer(head_only=True)
        for _ in range(LARGE // MIB):  # it goes on as soon as somebody reads
            await slow.reader.readexactly(MIB)
        assert flood.sent == LARGE


async def test_an_upload_waits_for_a_server_that_does_not_read(world: World) -> None:
    flood, go_on = Flood(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await go_on.wait()
        await connection.reader.readexactly(LARGE)
        await connection.send(response(200, {}, b"got it"))

    async with world.serving(script, tls=True) as upstream, world.app(upstream) as app:
        await app.send(method="POST", Content_Length=str(LARGE))
        pouring = asyncio.create_task(flood.pour(app.writer, LARGE))
        assert await flood.stuck() < HELD_AT_MOST
        go_on.set()
        await pouring
        assert (await app.answer()).body == b"got it"


@pytest.mark.parametrize("intercepted", [False, True], ids=["tunnel", "upgraded"])
async def test_both_ways_at_once_never_lock_each_other(
    run_egress: RunEgress, keyd: FakeKeyd, world: World, intercepted: bool
) -> None:
    """An echo of more than all buffers together: whoever stops reading while it cannot write stops for ever."""
    size = LARGE + HELD_AT_MOST

    async def script(connection: Connection) -> None:
        if intercepted:
            await connection.request()
            await connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
            )
        while data := await connection.reader.read(65536):
            await connection.send(data)

    keyd.allowed_domains = ["*"] if intercepted else []
    async with run_egress() as egress, world.serving(script, tls=True) as upstream:
        tls = (
            world.pki.client()
            if intercepted
            else ssl.create_default_context(cafile=str(world.pki.upstream_ca))
        )
        async with App(egress.address, upstream, tls) as app:
            if intercepted:
                await app.send(Upgrade="x", Connection="Upgrade")
                assert (await app.answer()).status == 101
            flood = Flood()
            pouring = asyncio.create_task(flood.pour(app.writer, size))
            assert await flood.stuck() < size  # everything between the two ends is full, and nobody reads
            assert await _read(app.reader, size) == size
            await pouring


async def _settled(value: Callable[[], int]) -> int:
    last = -1
    while value() != last:
        last = value()
        await asyncio.sleep(0.3)
    return last


async def _read(reader: asyncio.StreamReader, size: int) -> int:
    seen = 0
    while seen < size and (data := await reader.read(65536)):
        seen += len(data)
    return seen


async def test_a_connection_that_is_slow_to_open_holds_up_the_upload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, flood = asyncio.Event(), Flood()
    connect = asyncio.open_connection

    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.reader.readexactly(LARGE)
        await connection.send(response(200, {}, b"got it"))

    async with world.serving(script) as upstream, world.app(upstream) as app:

        async def slow(host: str, port: int, **options: object) -> object:
            if port == upstream.port:
                await opened.wait()
            return await connect(host, port, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(asyncio, "open_connection", slow)
        await app.send(method="POST", Content_Length=str(LARGE))
        pouring = asyncio.create_task(flood.pour(app.writer, LARGE))
        assert await flood.stuck() < HELD_AT_MOST
        opened.set()
        await pouring
        assert (await app.answer()).body == b"got it"


async def test_requests_sent_ahead_of_their_answers_wait_outside(world: World) -> None:
    flood, answer_now = Flood(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await answer_now.wait()
        await connection.send(response(200, {}, b"first"))
        await connection.request(head_only=True)
        await connection.reader.readexactly(LARGE)
        await connection.send(response(200, {}, b"second"))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/first")
        await app.send("/second", method="POST", Content_Length=str(LARGE))
        pouring = asyncio.create_task(flood.pour(app.writer, LARGE))
        assert await flood.stuck() < HELD_AT_MOST
        answer_now.set()
        assert (await app.answer()).body == b"first"
        await pouring
        assert (await app.answer()).body == b"second"


# -- HTTP/2: its windows decide, stream by stream ---------------------------------------------------------------


@asynccontextmanager
async def http2_app(world: World, upstream: object) -> AsyncIterator[Http2App]:
    async with Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app:  # type: ignore[arg-type]
        yield app


async def test_an_http2_stream_that_nobody_reads_stops_at_the_server_and_the_others_go_on(
    world: World,
) -> None:
    sent = 0

    async def script(stream: Stream) -> None:
        nonlocal sent
        await stream.head(200)
        if stream.message.target == "/small":
            await stream.data(b"ok", end=True)
            return
        piece = bytes(16 * 1024)
        while sent < 50 * MIB:
            await stream.window(len(piece))
            await stream.data(piece)
            sent += len(piece)
        await stream.data(b"", end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        app.hold.add(large := await app.request("/large"))
        await app.until(large, "200")
        for _ in range(3):
            small = await app.request("/small")
            await app.until(small, "end")
        assert sent < 6 * MIB
        await app.let_go(large)
        await app.until(large, "end")
        assert app.received[large] == 50 * MIB


async def test_an_http2_upload_waits_for_the_servers_window(world: World) -> None:
    go_on = asyncio.Event()

    async def script(stream: Stream) -> None:
        if stream.message.target == "/small":
            await stream.head(200, end=True)
            return
        stream.connection.hold.add(stream.id)
        await go_on.wait()
        await stream.connection.let_go(stream.id)
        await stream.complete.wait()
        await stream.head(200)
        await stream.data(str(len(stream.message.body)).encode(), end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        large = await app.request("/large", {":method": "POST"}, end=False)
        sending = asyncio.create_task(app.send_body(large, 20 * MIB))
        small = await app.request("/small")
        await app.until(small, "end")
        assert await _settled(lambda: app.sent[large]) < 6 * MIB
        go_on.set()
        assert str(20 * MIB) in await app.until(large, "end")
        await sending


async def test_a_402_wakes_an_http2_upload_that_waits_for_the_servers_window(world: World) -> None:
    """Nobody reads what is left of the first request, but the paid one needs it."""
    size, stuck = 4 * MIB, asyncio.Event()

    async def script(stream: Stream) -> None:
        if stream.paid:
            await stream.complete.wait()
            await stream.head(200)
            await stream.data(str(len(stream.message.body)).encode(), end=True)
            return
        stream.connection.hold.add(stream.id)
        await stuck.wait()
        await stream.head(402, {"payment-required": encode(TERMS)}, end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        stream = await app.request("/a", {":method": "POST"}, end=False)
        sending = asyncio.create_task(app.send_body(stream, size))
        assert await _settled(lambda: app.sent[stream]) < size
        stuck.set()
        assert str(size) in await app.until(stream, "end")
        await sending
