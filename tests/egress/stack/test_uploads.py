"""Request bodies: repeated byte for byte up to a bound, streamed beyond it, and 402s that do not wait for them."""

from __future__ import annotations

import asyncio

import pytest
from mitmproxy import http

from egress.paying import addon
from egress.proxy import Egress
from tests.egress.conftest import Pki, RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.upstream import Connection, Script, selling, serving
from tests.egress.support.wire import paid_answer, payment_required
from tests.loopback import SEND_BUFFER

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
LARGE = bytes(range(256)) * (4 * SEND_BUFFER // 256)
"""More than the buffers on the way hold; the server's own is small."""


@pytest.mark.parametrize("size", [1, 64 * 1024, 64 * 1024 + 1, 4 * 1024 * 1024])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_body_is_repeated_byte_for_byte(world: World, size: int, tls: bool) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with world.serving(SELLER, tls=tls) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=body)
        assert (await app.answer()).status == 200
    first, second = upstream.requests
    assert first.body == second.body == body
    assert [field for field in second.headers if field[0] != "PAYMENT-SIGNATURE"] == first.headers


@pytest.mark.parametrize("length_known", [True, False], ids=["content-length", "chunked"])
async def test_a_body_above_the_bound_streams_and_its_402_is_passed_on(
    run_egress: RunEgress, keyd: FakeKeyd, length_known: bool
) -> None:
    async with (
        run_egress(max_request_body=1000) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        if length_known:
            await app.send(method="POST", body=b"x" * 1001)
        else:
            await app.send(
                method="POST", body=b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", Transfer_Encoding="chunked"
            )
        answer = await app.answer()
        assert (answer.status, answer.body) == (402, b"pay first")
        assert answer.get("X-402-Egress") == "rejected; reason=body_too_large"
        assert (await app.get()).status == 200  # the connection is as good as before
    assert upstream.requests[0].body == b"x" * 1001
    assert len(keyd.requests) == 1


def early(answered: asyncio.Event, *, read_on: bool) -> Script:
    """402 as soon as a first part of the upload is there; the rest is discarded, or never read."""

    async def script(connection: Connection) -> None:
        if connection.number > 1:
            await connection.request()
            await connection.send(paid_answer())
            return
        await connection.request(head_only=True)
        await connection.reader.readexactly(1000)
        await connection.send(payment_required())
        if read_on:
            await connection.reader.read()
        await answered.wait()

    return script


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("read_on", [False, True], ids=["not read", "discarded"])
async def test_a_402_that_does_not_wait_for_the_upload_is_paid_with_the_whole_body(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, tls: bool, read_on: bool
) -> None:
    answered = asyncio.Event()
    body = LARGE
    script = early(answered, read_on=read_on)
    async with (
        run_egress(max_request_body=len(body)) as egress,
        serving(script, pki.server if tls else None, receive_buffer=65536) as upstream,
        App(egress.address, upstream, pki.client()) as app,
    ):
        sending = asyncio.create_task(app.send(method="POST", body=body))
        answer = await app.answer()
        await sending
        answered.set()
    assert (answer.status, answer.body) == (200, b"content")
    assert upstream.requests[1].body == body
    assert upstream.connections == 2
    assert len(keyd.requests) == 1


async def test_a_402_to_an_upload_that_is_stuck_is_paid_with_the_whole_body(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    answered = asyncio.Event()
    body = LARGE

    async with run_egress(max_request_body=len(body)) as egress:

        async def script(connection: Connection) -> None:
            if connection.number > 1:
                await connection.request()
                await connection.send(paid_answer())
                return
            await connection.request(head_only=True)
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            # An orderly close would now wait for bytes to be read that never are.
            for _ in iter(lambda: unsent(egress) > 64 * 1024, True):
                await asyncio.sleep(0)
            await connection.send(payment_required())
            await answered.wait()

        async with serving(script, receive_buffer=65536) as upstream, App(egress.address, upstream) as app:
            sending = asyncio.create_task(app.send(method="POST", body=body))
            answer = await app.answer()
            await sending
            answered.set()
    assert (answer.status, answer.body) == (200, b"content")
    assert upstream.requests[1].body == body
    assert len(keyd.requests) == 1


def unsent(egress: Egress) -> int:
    """Bytes that wait in egress because a server does not read."""
    transports = [
        io for handler in egress._proxyserver.connections.values() for io in handler.transports.values()
    ]
    writers = [io.writer for io in transports]
    return max(
        writer.transport.get_write_buffer_size()
        for writer in writers
        if isinstance(writer, asyncio.StreamWriter)
    )


async def test_a_connection_with_unread_bytes_is_not_used_for_the_payment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream_transport = addon._upstream_transport

    def blocked(flow: http.HTTPFlow) -> asyncio.WriteTransport | None:
        transport = upstream_transport(flow)
        # How much a kernel takes before it lets bytes wait differs, so the test says that some wait.
        monkeypatch.setattr(transport, "get_write_buffer_size", lambda: 1)
        return transport

    monkeypatch.setattr(addon, "_upstream_transport", blocked)
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=b"question")
        assert (await app.answer()).status == 200
    assert upstream.connections == 2


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_an_upload_that_never_ends_gets_its_402(
    world: World, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr("egress.stack.paystream.UPLOAD_LIMIT_S", 0.05)

    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.send(payment_required())
        await connection.reader.read()

    async with world.serving(script, tls=tls) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=b"3\r\nabc\r\n", Transfer_Encoding="chunked")
        answer = await app.answer()
    assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=body_too_large")
    assert world.keyd.requests == []


async def test_an_upload_that_overflows_after_its_402_gets_the_402(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.send(payment_required())
        await connection.reader.read()

    async with (
        run_egress(max_request_body=100_000) as egress,
        serving(script) as upstream,
        App(egress.address, upstream) as app,
    ):
        await app.send(method="POST", body=b"3\r\nabc\r\n", Transfer_Encoding="chunked")
        for _ in range(3):
            await app.write(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
        answer = await app.answer()
        assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=body_too_large")
    assert keyd.requests == []


async def test_an_application_that_hangs_up_within_its_upload_pays_nothing(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.send(payment_required())
        await connection.reader.read()

    async with world.serving(script) as upstream:
        gone = world.client_gone()
        async with world.app(upstream) as app:
            await app.send(method="POST", body=b"3\r\nabc\r\n", Transfer_Encoding="chunked")
        await gone.wait()
    assert world.keyd.requests == []


async def test_expect_100_continue_is_answered_and_the_body_paid_for(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.send(method="PUT", Content_Length="4", Expect="100-continue")
        assert (await app.answer()).status == 100
        await app.write(b"body")
        assert (await app.answer()).status == 200
    assert [request.body for request in upstream.requests] == [b"body", b"body"]


async def test_the_body_is_part_of_what_is_bought(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        for body in (b"one", b"two", b"one"):
            await app.send(method="POST", body=body)
            await app.answer()
    first, second, third = (request.fingerprint for request in world.keyd.requests)
    assert first == third != second
