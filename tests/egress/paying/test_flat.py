"""osModa's flat dialect: read only where it is switched on, put into x402's terms by keyd alone."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from egress.wire import x402
from egress.wire.x402 import X402Error
from keyd import api
from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd, reply_to
from tests.egress.support.upstream import selling, serving
from tests.egress.support.wire import OFFER, TERMS, decode, encode, paid_answer, response

FLAT = {
    "amount": "0.001",
    "asset": "USDC",
    "chain": "base",
    "payTo": "0x" + "22" * 20,
    "expiry": 1_800_000_000,
}
REFUSAL = response(402, {"PAYMENT-REQUIRED": encode(FLAT)}, b"pay first")
SELLER = selling(lambda _: paid_answer(), lambda _: REFUSAL)


async def _in_x402_terms(request: api.SignRequest) -> api.SignReply | web.Response:
    return reply_to(request).model_copy(update={"requirements": OFFER})


async def test_flat_terms_are_paid_in_the_terms_that_keyd_made_of_them(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    keyd.sign = _in_x402_terms
    async with (
        run_egress(x402={"flat_dialect": True}) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        assert (await app.get()).status == 200
    (request,) = keyd.requests
    assert (request.dialect, request.x402_version, request.offers) == ("flat", 2, [FLAT])
    paid = decode(upstream.requests[1].get("PAYMENT-SIGNATURE"))
    assert paid.keys() == {"x402Version", "accepted", "payload"}
    assert (paid["x402Version"], paid["accepted"]) == (2, OFFER)


async def test_by_default_flat_terms_are_no_terms(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=terms_missing")
    assert world.keyd.requests == []


def test_the_protocols_own_form_is_never_taken_for_flat() -> None:
    both = {**TERMS, **FLAT}
    assert x402.read_payment_required([encode(both)], b"", flat_dialect=True).dialect == "x402"
    without_version = {"accepts": [OFFER], **FLAT}
    assert x402.read_payment_required([encode(without_version)], b"", flat_dialect=True).dialect == "x402"


@pytest.mark.parametrize(
    "value", [{}, [], "flat", {"amount": "1"}, {k: FLAT[k] for k in ("amount", "asset")}]
)
def test_what_is_neither_is_not_read(value: Any) -> None:
    with pytest.raises(X402Error):
        x402.read_payment_required([encode(value)], b"", flat_dialect=True)
