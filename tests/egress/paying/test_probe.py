"""A 402 that is a page for people: its terms are asked for once more as JSON, and the request itself is paid."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2App, Stream, serving_http2
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.upstream import Connection, Script, selling, serving
from tests.egress.support.wire import (
    TERMS,
    TERMS_V1,
    Message,
    encode,
    paid_answer,
    payment_required,
    response,
)

PAGE = response(402, {"Content-Type": "text/html; charset=utf-8"}, b"<html>pay with your wallet</html>")
V1 = response(402, {"Content-Type": "application/json"}, json.dumps(TERMS_V1).encode())
BROWSER = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
NO_TERMS = "rejected; reason=terms_missing"


def shop(probed: bytes, *, close: bool = False) -> Script:
    """A page to those who would look at it, `probed` to those who ask for JSON."""

    def refusal(request: Message) -> bytes:
        return probed if request.get("Accept") == "application/json" else PAGE

    return selling(lambda _: paid_answer(), refusal, close=close)


@pytest.mark.parametrize("close", [False, True], ids=["kept alive", "closed"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("terms", [V1, payment_required()], ids=["version 1", "version 2"])
async def test_terms_behind_a_page_are_found_and_the_original_request_is_paid(
    world: World, terms: bytes, tls: bool, close: bool
) -> None:
    async with world.serving(shop(terms, close=close), tls=tls) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        await app.send(Accept=BROWSER, User_Agent="Mozilla/5.0", Cookie="a=1")
        answer = await app.answer()
    assert (answer.status, answer.body) == (200, b"content")
    original, probe, paid = upstream.requests
    assert upstream.connections == (3 if close else 1)
    assert probe.get("Accept") == "application/json"
    for repeated in (probe, paid):
        assert (repeated.start, repeated.get("User-Agent"), repeated.get("Cookie")) == (
            original.start,
            "Mozilla/5.0",
            "a=1",
        )
    assert paid.get("Accept") == BROWSER
    assert not probe.get("PAYMENT-SIGNATURE")
    assert not probe.get("X-PAYMENT")
    assert len(world.keyd.requests) == 1


async def test_a_request_without_accept_is_probed_and_paid_without_one(world: World) -> None:
    async with world.serving(shop(V1)) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        assert (await app.get()).status == 200
    assert [request.get("Accept") for request in upstream.requests] == [None, "application/json", None]


@pytest.mark.parametrize(
    "probed",
    [
        PAGE,
        response(402, {}, b"{}"),
        response(200, {"Content-Type": "application/json"}, b'{"content": "free as JSON"}'),
        response(302, {"Location": "https://evil.example/"}),
        response(500, {}, b"broken"),
        response(402, {"Content-Type": "application/json"}, b"x" * 4_300_000),
    ],
    ids=["page again", "no terms", "content", "redirect", "error", "too large"],
)
async def test_a_probe_without_terms_leaves_the_application_its_own_402(world: World, probed: bytes) -> None:
    async with world.serving(shop(probed)) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        for _ in range(2):  # the application's connection is as good as before
            answer = await app.get()
            assert (answer.status, answer.body) == (402, b"<html>pay with your wallet</html>")
            assert answer.get("X-402-Egress") == NO_TERMS
    assert len(upstream.requests) == 4
    assert world.keyd.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_safe_methods_are_sent_once_more(world: World, method: str) -> None:
    async with world.serving(shop(V1)) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        await app.send(method=method, body=b"")
        assert (await app.answer()).get("X-402-Egress") == NO_TERMS
    assert len(upstream.requests) == 1


async def test_an_application_that_asked_for_json_is_not_asked_again(world: World) -> None:
    async with world.serving(selling(lambda _: b"", lambda _: PAGE)) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        answer = await app.get(Accept="application/json")
    assert answer.get("X-402-Egress") == NO_TERMS
    assert len(upstream.requests) == 1


async def test_a_402_that_is_no_page_is_not_probed(world: World) -> None:
    plain = response(402, {"Content-Type": "text/plain"}, b"pay by mail")
    async with world.serving(selling(lambda _: b"", lambda _: plain)) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        assert (await app.get()).get("X-402-Egress") == NO_TERMS
    assert len(upstream.requests) == 1


async def test_a_host_that_nobody_may_pay_is_not_probed(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    keyd.allowed_domains = ["other.example"]
    async with run_egress() as egress, serving(shop(V1)) as upstream, App(egress.address, upstream) as app:
        assert (await app.get()).get("X-402-Egress") == NO_TERMS
    assert len(upstream.requests) == 1


async def test_a_page_after_the_payment_is_not_probed(world: World) -> None:
    script = selling(lambda _: PAGE, lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        answer = await app.get()
    assert (answer.get("X-402-Egress") or "").startswith("rejected; reason=already_paid; ")
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("where", ["before the head", "within the head", "within the body"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_probe_that_is_lost_leaves_the_application_its_own_402(
    world: World, where: str, tls: bool
) -> None:
    parts = {"before the head": b"", "within the head": b"HTTP/1.1 402 Pay\r\nConte"}
    part = parts.get(where, V1[:-10])

    async def script(connection: Connection) -> None:
        if (await connection.request()).get("Accept") != "application/json":
            await connection.send(PAGE)
            await connection.request()
        await connection.send(part)

    async with world.serving(script, tls=tls) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        answer = await app.get()
    assert (answer.status, answer.get("X-402-Egress")) == (402, NO_TERMS)
    assert world.keyd.requests == []


async def test_a_probe_that_is_never_answered_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.stack.paystream.HOLD_LIMIT_S", 0.05)

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(PAGE)
        await connection.request()
        assert await connection.reader.read() == b""  # egress closes the connection

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await world.allow(upstream)
        answer = await app.get()
        assert (answer.status, answer.get("X-402-Egress")) == (402, NO_TERMS)


async def test_an_application_that_hangs_up_during_the_probe_pays_nothing(world: World) -> None:
    asked, gone = asyncio.Event(), world.client_gone()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(PAGE)
        await connection.request()
        asked.set()
        await gone.wait()

    async with world.serving(script) as upstream:
        await world.allow(upstream)
        async with world.app(upstream) as app:
            await app.send()
            await asked.wait()
        await gone.wait()
    assert world.keyd.requests == []


# -- HTTP/2 --------------------------------------------------------------------------------------------------


async def _h2_shop(stream: Stream) -> None:
    await stream.complete.wait()
    if stream.paid:
        await stream.head(200)
        await stream.data(b"content", end=True)
    elif stream.message.get("accept") == "application/json":
        await stream.head(402, {"payment-required": encode(TERMS)}, end=True)
    else:
        await stream.head(402, {"content-type": "text/html"})
        await stream.data(b"<html>", end=True)


async def test_over_http2_probe_and_payment_share_the_connection(world: World) -> None:
    tls = world.pki.client("h2")
    async with (
        serving_http2(_h2_shop, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, tls)) as app,
    ):
        first, second = await app.request("/a"), await app.request("/b")
        assert await app.until(first, "end") == ["200", "content", "end"]
        assert await app.until(second, "end") == ["200", "content", "end"]
    assert upstream.connections == 1
    assert len(upstream.requests) == 6
    assert len(world.keyd.requests) == 2


async def test_over_http2_an_endless_answer_to_the_probe_is_cancelled(world: World) -> None:
    reset: asyncio.Queue[int] = asyncio.Queue()

    async def script(stream: Stream) -> None:
        if stream.message.get("accept") != "application/json":
            await _h2_shop(stream)
            return
        await stream.head(200)
        await stream.data(b"data: 1\n\n")
        reset.put_nowait(await stream.connection.resets.get())

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app,
    ):
        for _ in range(2):
            assert await app.until(await app.request("/a"), "end") == ["402", "<html>", "end"]
            await reset.get()
    assert upstream.connections == 1
