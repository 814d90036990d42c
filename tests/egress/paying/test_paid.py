"""A 402 is paid and the application gets the answer: over plain http and through CONNECT with TLS."""

from __future__ import annotations

import json

import pytest

from tests.egress.conftest import World
from tests.egress.support.keyd import SIGNATURE
from tests.egress.support.upstream import selling
from tests.egress.support.wire import (
    OFFER,
    TERMS,
    TERMS_V1,
    TX,
    decode,
    encode,
    paid_answer,
    payment_required,
    response,
)

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_402_is_paid_and_the_application_gets_the_content(world: World, tls: bool) -> None:
    async with world.serving(SELLER, tls=tls) as upstream, world.app(upstream) as app:
        answer = await app.get("/a?q=1")
    assert (answer.status, answer.body) == (200, b"content")
    assert answer.get("X-402-Egress") == (
        f"paid; amount=0.001; asset=USDC; network=eip155:84532; payment={1:032x}; tx={TX}"
    )
    first, second = upstream.requests
    assert upstream.connections == 1
    assert first.get("PAYMENT-SIGNATURE") is None
    payment = decode(second.get("PAYMENT-SIGNATURE"))
    assert payment["accepted"] == OFFER
    assert payment["x402Version"] == 2
    assert payment["resource"] == TERMS["resource"]
    assert payment["payload"]["signature"] == SIGNATURE
    assert [field for field in second.headers if field[0] != "PAYMENT-SIGNATURE"] == first.headers
    asked = world.keyd.requests[0]
    assert str(asked.origin) == f"{upstream.scheme}://127.0.0.1:{upstream.port}"
    assert (asked.method, asked.path, asked.offers) == ("GET", "/a", [OFFER])
    report = await world.keyd.outcomes.get()
    assert (report.payment_id, report.http_status, report.failure) == (f"{1:032x}", 200, None)
    assert report.settlement is not None
    assert report.settlement["transaction"] == TX


async def test_version_1_terms_in_the_body_are_paid_with_x_payment(world: World) -> None:
    script = selling(
        lambda _: response(200, {"X-PAYMENT-RESPONSE": encode({"success": True, "transaction": TX})}, b"v1"),
        lambda _: response(402, {}, json.dumps(TERMS_V1).encode()),
    )
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.body) == (200, b"v1")
    payment = decode(upstream.requests[1].get("X-PAYMENT"))
    assert upstream.requests[1].get("PAYMENT-SIGNATURE") is None
    assert payment["x402Version"] == 1
    assert (payment["scheme"], payment["network"]) == ("exact", "base-sepolia")
    assert world.keyd.requests[0].x402_version == 1
    assert (await world.keyd.outcomes.get()).settlement is not None
