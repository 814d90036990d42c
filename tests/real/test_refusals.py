"""What a program sees when nothing is paid: the server's own 402, and why."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.support.clients import Answer, fetch
from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real


@pytest.fixture
def own_payer(chain: Chain, server_http: str, tmp_path: Path) -> Iterator[Payer]:
    """A payer that the test may break."""
    with Payer(tmp_path, [server_http], chain.keys["payer"]) as running:
        yield running


def _direct(payer: Payer, url: str) -> Answer:
    environment = {k: v for k, v in payer.environment.items() if not k.lower().endswith("_proxy")}
    return fetch("curl", url, environment)


def _terms(answer: Answer) -> object:
    return json.loads(base64.b64decode(answer.headers["payment-required"]))


def _assert_original_402(refused: Answer, original: Answer, reason: str) -> None:
    assert refused.headers.pop("x-402-egress") == f"rejected; reason={reason}"
    assert (refused.status, refused.body) == (original.status, original.body)
    assert _terms(refused) == _terms(original)
    assert refused.headers.keys() == original.headers.keys()


def test_a_price_above_the_cap_comes_back_as_the_original_402(payer: Payer, server_http: str) -> None:
    signed = payer.signed()

    refused = fetch("curl", f"{server_http}/dear", payer.environment)

    _assert_original_402(refused, _direct(payer, f"{server_http}/dear"), "cap_per_payment")
    assert payer.signed() == signed
    assert payer.entries("x402.payment.rejected")[-1]["data"]["code"] == "cap_per_payment"


def test_without_keyd_nothing_is_paid_and_everything_else_goes_on(
    own_payer: Payer, server_http: str, chain: Chain
) -> None:
    before = chain.balance("payer")
    assert fetch("curl", f"{server_http}/weather", own_payer.environment).status == 200

    own_payer.keyd.stop()
    refused = fetch("curl", f"{server_http}/weather", own_payer.environment)
    free = fetch("curl", f"{server_http}/free", own_payer.environment)

    _assert_original_402(refused, _direct(own_payer, f"{server_http}/weather"), "keyd_unreachable")
    assert (free.status, json.loads(free.body)) == (200, {"free": True})
    assert before - chain.balance("payer") == 1_000, "only the first one was paid"


def test_once_keyd_is_back_payments_go_on(own_payer: Payer, server_http: str) -> None:
    own_payer.keyd.stop()
    assert fetch("curl", f"{server_http}/weather", own_payer.environment).status == 402

    own_payer.keyd.start()

    assert fetch("curl", f"{server_http}/weather", own_payer.environment).status == 200


def test_a_server_that_is_not_on_the_list_is_not_paid(own_payer: Payer, server_v1: str, chain: Chain) -> None:
    before = chain.balance("payer")

    refused = fetch("curl", f"{server_v1}/weather", own_payer.environment)

    assert refused.headers["x-402-egress"] == "rejected; reason=domain_not_allowed"
    assert (refused.status, json.loads(refused.body)["x402Version"]) == (402, 1)
    assert chain.balance("payer") == before
