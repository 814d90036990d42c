"""Both directions at once: HTTP/2 streams as gRPC uses them, and WebSockets with a real client library."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.egress.conftest import Pki, RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2App, Stream, serving_http2
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.wire import SETTLED, TERMS, encode

GRPC = {":method": "POST", "content-type": "application/grpc", "te": "trailers"}


async def test_messages_of_a_bidirectional_stream_pass_one_by_one_and_its_trailers_end_it(
    world: World,
) -> None:
    async def script(stream: Stream) -> None:
        await stream.head(200, {"content-type": "application/grpc"})
        while (message := await stream.next_piece()) is not None:
            await stream.data(b"echo " + message)
        await stream.trailers({"grpc-status": "0", "grpc-message": "done"})

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app,
    ):
        stream = await app.request("/echo", GRPC, end=False)
        for number in range(5):  # the next is only sent once the answer to the last has arrived
            await app.send(stream, f"{number}".encode())
            await app.until(stream, f"echo {number}")
        await app.send(stream, b"", end=True)
        seen = await app.until(stream, "end")
    assert seen == [
        "200",
        *(f"echo {number}" for number in range(5)),
        "trailers grpc-status=0 grpc-message=done",
        "end",
    ]
    assert upstream.requests[0].get("te") == "trailers"


async def test_a_server_that_ends_first_is_not_held_back_until_the_request_ends(world: World) -> None:
    async def script(stream: Stream) -> None:
        await stream.next_piece()
        await stream.head(200)
        await stream.data(b"enough", end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app,
    ):
        stream = await app.request("/a", GRPC, end=False)
        await app.send(stream, b"some")
        assert await app.until(stream, "end") == ["200", "enough", "end"]


async def test_an_answer_of_trailers_alone_passes(world: World) -> None:
    async def script(stream: Stream) -> None:
        await stream.head(200, {"grpc-status": "12"}, end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app,
    ):
        stream = await app.request("/a", GRPC, end=False)
        assert await app.until(stream, "end") == ["200", "end"]


async def test_many_bidirectional_streams_share_a_connection_without_waiting_for_each_other(
    world: World,
) -> None:
    async def script(stream: Stream) -> None:
        await stream.head(200)
        while (message := await stream.next_piece()) is not None:
            await stream.data(stream.message.target.encode() + message)
        await stream.trailers({"grpc-status": "0"})

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app,
    ):
        await app.until(await app.request("/first"), "end")
        streams = {path: await app.request(path, GRPC, end=False) for path in map("/{}".format, range(20))}
        for path, stream in reversed(streams.items()):
            await app.send(stream, b"!")
            await app.until(stream, f"{path}!")
        for stream in streams.values():
            await app.send(stream, b"", end=True)
            await app.until(stream, "end")
    assert upstream.connections == 1


# -- WebSockets, with aiohttp on both ends ----------------------------------------------------------------------


@asynccontextmanager
async def websocket_server(tls: ssl.SSLContext | None, *, paid: bool) -> AsyncIterator[str]:
    """Echoes text and bytes. Its URL."""

    async def upgrade(request: web.Request) -> web.StreamResponse:
        if paid and "PAYMENT-SIGNATURE" not in request.headers:
            return web.Response(status=402, headers={"PAYMENT-REQUIRED": encode(TERMS)})
        socket = web.WebSocketResponse(max_msg_size=0, compress=True)
        if paid:
            socket.headers["PAYMENT-RESPONSE"] = encode(SETTLED)
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/ws", upgrade)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/ws"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("scheme", "tunnelled", "paid"),
    [
        ("ws", False, False),
        ("wss", False, False),
        ("wss", True, False),
        ("ws", False, True),
        ("wss", False, True),
    ],
    ids=["ws", "wss", "wss in a tunnel", "paid ws", "paid wss"],
)
async def test_a_websocket_passes(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, scheme: str, tunnelled: bool, paid: bool
) -> None:
    keyd.allowed_domains = [] if tunnelled else ["*"]
    trust = ssl.create_default_context(cafile=str(pki.upstream_ca)) if tunnelled else pki.client()
    async with (
        run_egress() as egress,
        websocket_server(pki.server if scheme == "wss" else None, paid=paid) as url,
    ):
        host, port = egress.address
        proxy = f"http://{host}:{port}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, proxy=proxy, ssl=trust, max_msg_size=0, compress=15) as socket,
        ):
            await socket.send_str("text é")
            assert await socket.receive_str() == "text é"
            large = bytes(range(256)) * 8192
            await socket.send_bytes(large)
            assert await socket.receive_bytes() == large
            await socket.ping(b"are you there")
            await socket.close(code=1000)
            assert socket.close_code == 1000
    assert len(keyd.requests) == (1 if paid else 0)
