"""The many forms of a 402: those that can be paid are, all others reach the application as they came."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.egress.conftest import World
from tests.egress.support.upstream import Connection, selling
from tests.egress.support.wire import (
    TERMS,
    TERMS_V1,
    encode,
    paid_answer,
    payment_required,
    response,
)

V2 = encode(TERMS)
V1_BODY = json.dumps(TERMS_V1).encode()


def chunked(status: int, headers: dict[str, str], body: bytes) -> bytes:
    head = response(status, {"Transfer-Encoding": "chunked", **headers}, length=False)
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


PAYABLE = {
    "header": payment_required(),
    "header without body": payment_required(b""),
    "header in lower case": response(402, {"payment-required": V2}, b"{}"),
    "header without padding": response(402, {"PAYMENT-REQUIRED": V2.rstrip("=")}, b"{}"),
    "chunked body": chunked(402, {"PAYMENT-REQUIRED": V2}, b"pay"),
    "64 KiB of terms": response(402, {"PAYMENT-REQUIRED": encode({**TERMS, "error": "x" * 48 * 1024})}),
    "3 MiB of body": payment_required(b"x" * 3 * 1024 * 1024),
    "version 1 body": response(402, {}, V1_BODY),
    "version 1 body, chunked": chunked(402, {}, V1_BODY),
    "version 1 body, malformed header": response(402, {"PAYMENT-REQUIRED": "%%%"}, V1_BODY),
    "version 2 body": response(402, {}, json.dumps(TERMS).encode()),
}
PAYABLE_AND_CLOSED = {
    "connection close": payment_required(b"pay", Connection="close"),
    "closed although kept alive": payment_required(),
    "http 1.0 without length": b"HTTP/1.0 402 Pay\r\nPAYMENT-REQUIRED: " + V2.encode() + b"\r\n\r\npay",
    "http 1.1 without length": b"HTTP/1.1 402 Pay\r\nPAYMENT-REQUIRED: " + V2.encode() + b"\r\n\r\npay",
}
NOT_PAYABLE = {
    "no terms": response(402, {"X-Other": "1"}, b"pay by mail"),
    "html": response(402, {"Content-Type": "text/html"}, b"<html>paywall</html>"),
    "bad base64": response(402, {"PAYMENT-REQUIRED": "%%%"}, b"{}"),
    "two headers": response(402, {"PAYMENT-REQUIRED": V2, "Payment-Required": V2}, b"{}"),
    "no offers": response(402, {"PAYMENT-REQUIRED": encode({**TERMS, "accepts": []})}),
    "bad utf-8": response(402, {}, b"\xff\xfe{}"),
    "deep": response(402, {}, b'{"x402Version":1,"accepts":' + b"[" * 9999 + b"]" * 9999 + b"}"),
}


@pytest.mark.parametrize("form", PAYABLE)
async def test_a_402_that_can_be_read_is_paid_on_the_same_connection(world: World, form: str) -> None:
    script = selling(lambda _: paid_answer(), lambda _: PAYABLE[form])
    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).body == b"content"
        assert (await app.get()).body == b"content"  # the connection to the application lives on, too
    assert upstream.connections == 1
    assert len(world.keyd.requests) == 2


@pytest.mark.parametrize("form", PAYABLE_AND_CLOSED)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_402_that_ends_its_connection_is_paid_on_a_new_one(
    world: World, form: str, tls: bool
) -> None:
    script = selling(lambda _: paid_answer(), lambda _: PAYABLE_AND_CLOSED[form], close=True)
    async with world.serving(script, tls=tls) as upstream, world.app(upstream) as app:
        assert (await app.get()).body == b"content"
    assert upstream.connections == 2
    assert len(world.keyd.requests) == 1


@pytest.mark.parametrize("form", NOT_PAYABLE)
async def test_a_402_without_readable_terms_passes_unchanged(world: World, form: str) -> None:
    original = NOT_PAYABLE[form]
    async with (
        world.serving(selling(lambda _: b"", lambda _: original)) as upstream,
        world.app(upstream) as app,
    ):
        await app.send()
        received = await app.reader.readuntil(b"\r\n\r\n")
        head, _, body = original.partition(b"\r\n\r\n")
        assert received == head + b"\r\nX-402-Egress: rejected; reason=terms_missing\r\n\r\n"
        assert await app.reader.readexactly(len(body)) == body
    assert world.keyd.requests == []


async def test_a_402_to_a_head_request_is_paid(world: World) -> None:
    def head_only(answer: bytes) -> bytes:
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    script = selling(lambda _: head_only(paid_answer()), lambda _: head_only(payment_required()))
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="HEAD")
        answer = await app.answer(head_only=True)
    assert (answer.status, answer.get("Content-Length")) == (200, "7")
    assert upstream.connections == 1


async def test_a_402_that_is_too_large_streams_through_unpaid(world: World) -> None:
    more = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(
            response(402, {"PAYMENT-REQUIRED": V2, "Content-Length": str(4_600_000)}, length=False)
        )
        await connection.send(b"x" * 4_300_000)
        await more.wait()
        await connection.send(b"y" * 300_000)

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        answer = await app.answer(head_only=True)
        assert answer.get("X-402-Egress") == "rejected; reason=terms_too_large"
        assert await app.reader.readexactly(4_300_000) == b"x" * 4_300_000  # before the server sends the rest
        more.set()
        assert await app.reader.readexactly(300_000) == b"y" * 300_000
    assert world.keyd.requests == []


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_402_that_drips_is_passed_on_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr("egress.stack.paystream.HOLD_LIMIT_S", 0.05)
    more = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(
            response(402, {"PAYMENT-REQUIRED": V2, "Content-Length": "4"}, length=False) + b"dr"
        )
        await more.wait()
        await connection.send(b"ip")

    async with world.serving(script, tls=tls) as upstream, world.app(upstream) as app:
        await app.send()
        answer = await app.answer(head_only=True)
        assert answer.get("X-402-Egress") == "rejected; reason=terms_timeout"
        more.set()
        assert await app.reader.readexactly(4) == b"drip"
    assert world.keyd.requests == []


async def test_a_402_that_breaks_off_reaches_the_application_as_far_as_it_came(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(
            response(402, {"PAYMENT-REQUIRED": V2, "Content-Length": "9"}, length=False) + b"part"
        )

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        answer = await app.answer(head_only=True)
        assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=terms_missing")
        assert await app.reader.read() == b"part"
    assert world.keyd.requests == []


async def test_other_statuses_are_never_paid_even_with_terms(world: World) -> None:
    script = selling(lambda _: b"", lambda _: response(403, {"PAYMENT-REQUIRED": V2}, b"no"))
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.body, answer.get("X-402-Egress")) == (403, b"no", None)
    assert world.keyd.requests == []
