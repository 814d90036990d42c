"""X-402-* in a request: it only ever tightens, what is unclear refuses, and none of it reaches the server."""

from __future__ import annotations

import pytest
from mitmproxy import http

from egress.paying.steering import Wishes, strip
from keyd.reasons import Reason
from tests.egress.conftest import World
from tests.egress.support.upstream import selling
from tests.egress.support.wire import TERMS, encode, paid_answer, payment_required

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


async def refused(world: World, *lines: str, body: bytes = b"", method: str = "GET") -> str | None:
    """The X-402-Egress of a request with these header lines, which must not have been paid."""
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        head = [f"{method} {upstream.url()} HTTP/1.1", f"Host: 127.0.0.1:{upstream.port}", *lines, "", ""]
        await app.write("\r\n".join(head).encode("latin-1") + body)
        answer = await app.answer()
    assert answer.status == 402
    assert answer.get("PAYMENT-REQUIRED") == encode(TERMS)
    assert len(upstream.requests) == 1
    request = upstream.requests[0]
    assert not [
        name for name, _ in [*request.headers, *request.trailers] if name.lower().startswith("x-402-")
    ]
    assert world.keyd.requests == []
    return answer.get("X-402-Egress")


async def test_limits_reach_keyd_as_they_were_written(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get(X_402_Max=" USDC@base:0.05", X_402_Pay='{"asset": "USDC"}', X_402_Intent="one")
        await app.get("/b")
    first, second = world.keyd.requests
    assert (first.max_spend, first.prefer, first.intent) == ("USDC@base:0.05", '{"asset": "USDC"}', "one")
    assert (second.max_spend, second.prefer, second.intent) == (None, None, None)


@pytest.mark.parametrize("text", ["none", "None", "NONE ", "  none"])
async def test_a_program_can_decline(world: World, text: str) -> None:
    assert await refused(world, f"X-402-Pay: {text}") == "rejected; reason=app_declined"


@pytest.mark.parametrize("header", ["X-402-Key", "x-402-key", "X-402-KEY"])
async def test_a_private_key_is_neither_used_nor_forwarded(world: World, header: str) -> None:
    assert await refused(world, f"{header}: 0x{'4c' * 32}") == "rejected; reason=key_in_header"


@pytest.mark.parametrize(
    "lines",
    [
        ["X-402-Max: 0.05", "X-402-Max: 0.05"],
        ["X-402-Max: 0.05", "x-402-max: 9"],
        ["X-402-Pay: USDC", "X-402-Pay: none"],
        ["X-402-Intent: a", "X-402-Intent: b"],
        ["X-402-Intent:"],
        ["X-402-Intent: " + "x" * 129],
        ["X-402-Max: " + "1" * 257],
        ["X-402-Pay: " + "x" * 1025],
        ["X-402-Max: \xff"],
        ["X-402-Mxa: 0.05"],
        ["X-402-Max: 0.05", "x-402-unknown: 1"],
    ],
    ids=lambda lines: " + ".join(line[:16] for line in lines),
)
async def test_what_cannot_be_obeyed_refuses(world: World, lines: list[str]) -> None:
    assert await refused(world, *lines) == "rejected; reason=app_limit_malformed"


@pytest.mark.parametrize(
    ("field", "reason"), [("X-402-Max: 0.05", "app_limit_malformed"), ("X-402-Key: 0x1", "key_in_header")]
)
async def test_limits_in_trailers_come_too_late_to_be_obeyed(world: World, field: str, reason: str) -> None:
    body = f"3\r\nabc\r\n0\r\n{field}\r\n\r\n".encode()
    said = await refused(world, "Transfer-Encoding: chunked", method="POST", body=body)
    assert said == f"rejected; reason={reason}"


async def test_limits_change_nothing_for_an_answer_that_is_free(world: World) -> None:
    free = selling(lambda _: b"", lambda _: paid_answer(b"free"))
    async with world.serving(free) as upstream, world.app(upstream) as app:
        answer = await app.get(X_402_Max="nonsense", X_402_Key="0x1")
    assert (answer.status, answer.body, answer.get("X-402-Egress")) == (200, b"free", None)


def test_a_key_outweighs_everything_else_that_is_said() -> None:
    headers = http.Headers([(b"X-402-Pay", b"none"), (b"x-402-KEY", b"0x1"), (b"X-402-Max", b"1")])
    wishes = Wishes.of(headers)
    assert wishes.refusal is Reason.KEY_IN_HEADER
    strip(headers)
    assert headers.fields == ()
