"""Memory and connections are shared: no caller uses up everybody's, and everything is given back."""

from __future__ import annotations

import asyncio
import socket

import pytest
from mitmproxy.connection import Client

from egress.connections import ANSWERED, ConnectionLimit
from egress.paying.room import Room
from egress.proxy import Egress
from tests.egress.conftest import Pki, RunEgress
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2App, Stream, serving_http2
from tests.egress.support.keyd import FakeKeyd, refusal
from tests.egress.support.upstream import Connection, selling, serving
from tests.egress.support.wire import TERMS, encode, paid_answer, payment_required, response

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
FULL = "rejected; reason=egress_full"


def room_of(egress: Egress) -> Room:
    return egress._x402._room


async def given_back(egress: Egress) -> None:
    """Return when nothing is kept any more: the last event of a request has no other trace."""
    for _ in iter(lambda: room_of(egress).taken, 0):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [50_000, 100_000], ids=["in one piece", "streamed"])
async def test_a_body_without_room_streams_and_its_402_is_passed_on(
    run_egress: RunEgress, keyd: FakeKeyd, size: int
) -> None:
    async with (
        run_egress(max_kept=49_999) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        await app.send(method="POST", body=b"x" * size)
        answer = await app.answer()
        assert (answer.status, answer.get("X-402-Egress")) == (402, FULL)
        assert (await app.get()).status == 200  # what needs little room is paid
        await given_back(egress)
    assert upstream.requests[0].body == b"x" * size
    assert len(keyd.requests) == 1


async def test_a_402_without_room_streams_through(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    large = payment_required(b"x" * 60_000)
    async with (
        run_egress(max_kept=50_000) as egress,
        serving(selling(lambda _: b"", lambda _: large)) as upstream,
        App(egress.address, upstream) as app,
    ):
        answer = await app.get()
        assert (answer.body, answer.get("X-402-Egress")) == (b"x" * 60_000, FULL)
        await given_back(egress)
    assert keyd.requests == []


async def test_many_uploads_together_stay_within_the_room(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    """Each alone is small enough; together they are not."""
    size, peak = 200_000, 0

    async with run_egress(max_kept=5 * size) as egress, serving(SELLER) as upstream:

        async def upload() -> str | None:
            async with App(egress.address, upstream) as app:
                await app.send(method="POST", body=b"x" * size)
                return (await app.answer()).get("X-402-Egress")

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, room_of(egress).taken)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        answers = await asyncio.gather(*(upload() for _ in range(20)))
        watching.cancel()
        await given_back(egress)
    assert 0 < peak <= 5 * size
    assert all(answer == FULL or (answer or "").startswith("paid; ") for answer in answers)
    assert len(keyd.requests) == sum(answer != FULL for answer in answers) > 0


@pytest.mark.parametrize("ending", ["paid", "refused", "server gone", "application gone"])
async def test_whatever_ends_a_request_gives_its_room_back(
    run_egress: RunEgress, keyd: FakeKeyd, ending: str
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if ending == "server gone":
            return
        await connection.send(payment_required())
        await connection.request()
        await connection.send(paid_answer())

    if ending == "refused":

        async def refuse(_: object) -> object:
            return refusal("budget_daily")

        keyd.sign = refuse  # type: ignore[assignment]
    async with run_egress() as egress, serving(script) as upstream:
        async with App(egress.address, upstream) as app:
            await app.send(method="POST", body=b"x" * 100_000)
            if ending != "application gone":
                await app.answer()
        await given_back(egress)


@pytest.mark.parametrize("length", [True, False], ids=["complete", "broken off"])
async def test_a_402_that_an_application_does_not_read_keeps_its_room(
    run_egress: RunEgress, keyd: FakeKeyd, length: bool
) -> None:
    """It lies in egress until it is read, however long ago the seller has sent it."""
    page = b"x" * 3_000_000
    terms = {"PAYMENT-REQUIRED": encode(TERMS), "Content-Length": str(len(page) + (0 if length else 1))}

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(response(402, terms, page, length=False))

    async def refuse(_: object) -> object:
        return refusal("budget_daily")

    keyd.sign = refuse  # type: ignore[assignment]
    async with run_egress() as egress, serving(script) as upstream:
        egress._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # of those it accepts
        async with App(egress.address, upstream, limit=65536) as app:
            await app.send()
            assert (await app.answer(head_only=True)).status == 402
            assert room_of(egress).taken == len(page)
            await app.reader.readexactly(len(page))
            await given_back(egress)
        async with App(egress.address, upstream, limit=65536) as app:
            await app.send()
            await app.answer(head_only=True)
        await given_back(egress)  # nor does one who hangs up keep it


async def test_a_402_that_an_http2_application_has_no_window_for_keeps_its_room(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    page = b"x" * 3_000_000

    async def refuse(_: object) -> object:
        return refusal("budget_daily")

    async def script(stream: Stream) -> None:
        await stream.head(402, {"payment-required": encode(TERMS)})
        for sent in range(0, len(page), 10_000):
            await stream.window(10_000)
            await stream.data(page[sent : sent + 10_000])
        await stream.data(b"", end=True)

    keyd.sign = refuse  # type: ignore[assignment]
    async with (
        run_egress() as egress,
        serving_http2(script, pki.server_for("h2")) as upstream,
        Http2App(App(egress.address, upstream, pki.client("h2"))) as app,
    ):
        app.hold.update({1, 3})
        first = await app.request("/a")
        await app.until(first, "402")
        await app.heard()
        assert room_of(egress).taken == len(page)
        second = await app.request("/b")
        await app.until(second, "402")
        await app.heard()
        assert room_of(egress).taken == 2 * len(page)
        await app.reset(second)
        await app.let_go(first)
        await app.until(first, "end")
        await given_back(egress)
    assert app.received[first] == len(page)


# -- connections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_connections_beyond_the_limit_are_answered_and_closed(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, tls: bool
) -> None:
    async with (
        run_egress(max_connections_per_caller=2) as egress,
        serving(SELLER, pki.server if tls else None) as upstream,
    ):
        async with (
            App(egress.address, upstream, pki.client()) as first,
            App(egress.address, upstream, pki.client()) as second,
        ):
            refused = App(egress.address, upstream)
            refused.reader, refused.writer = await asyncio.open_connection(*egress.address)
            if tls:
                await refused.write(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % upstream.port)
            else:
                await refused.send()
            answer = await refused.answer()
            assert (answer.status, answer.get("X-402-Egress")) == (
                429,
                "rejected; reason=too_many_connections",
            )
            assert await refused.reader.read() == b""
            assert (await first.get()).status == 200
            assert (await second.get()).status == 200
        for _ in iter(lambda: bool(egress._proxyserver.connections), False):
            await asyncio.sleep(0)
        async with App(egress.address, upstream, pki.client()) as third:
            assert (await third.get()).status == 200
    assert len(keyd.requests) == 3


async def test_who_does_not_read_a_last_answer_is_not_waited_for_without_end(
    run_egress: RunEgress, keyd: FakeKeyd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the limit such a connection has ended; its socket and what waits for it must not stay."""
    monkeypatch.setattr("egress.stack.handler.LINGER_S", 0.05)
    page = b"x" * 250_000

    async def refuse(_: object) -> object:
        return refusal("budget_daily")

    keyd.sign = refuse  # type: ignore[assignment]
    seller = selling(
        lambda _: b"", lambda request: response(200) if request.target == "/free" else payment_required(page)
    )
    async with run_egress() as egress, serving(seller) as upstream:
        egress._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of those it accepts
        async with App(egress.address, upstream, limit=4096) as app:
            assert (await app.get("/free")).status == 200
            (handler,) = egress._proxyserver.connections.values()
            writer = handler.transports[handler.client].writer
            assert isinstance(writer, asyncio.StreamWriter)
            await app.send(Connection="close")
            assert (await app.answer(head_only=True)).status == 402
            async with asyncio.timeout(10):
                await writer.wait_closed()
            assert len(await app.reader.read()) < len(page)
        async with App(egress.address, upstream, limit=4096) as app:  # who reads gets all of it
            assert (await app.get(Connection="close")).body == page


def test_far_beyond_the_limit_connections_are_closed_at_once_and_others_are_not_touched() -> None:
    limit = ConnectionLimit(1, lambda client: client.peername[0])
    clients = [_client("10.0.0.1") for _ in range(ANSWERED + 2)]
    for client in clients:
        limit.client_connected(client)
    assert [client.error is None for client in clients] == [True] * (ANSWERED + 1) + [False]
    other = _client("10.0.0.2")
    limit.client_connected(other)
    assert other.error is None
    for client in [*clients, other]:
        limit.client_disconnected(client)
    assert not limit._open
    assert not limit._owners
    assert not limit._refused


def _client(host: str) -> Client:
    return Client(peername=(host, 1), sockname=("10.0.0.9", 2))


async def test_a_refused_connection_reaches_no_server(run_egress: RunEgress) -> None:
    async with (
        run_egress(max_connections_per_caller=1) as egress,
        serving(selling(lambda _: b"", lambda _: response(200))) as upstream,
        App(egress.address, upstream) as first,
        App(egress.address, upstream) as second,
    ):
        assert (await first.get()).status == 200
        assert (await second.get()).status == 429
    assert len(upstream.requests) == 1
