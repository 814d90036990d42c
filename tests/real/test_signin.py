"""Extensions of the official server: who has paid once signs in, if an administrator allows it; payments are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer, verify_offline

pytestmark = pytest.mark.real


@pytest.fixture
def customer(chain: Chain, server_siwx: str, tmp_path: Path) -> Iterator[Payer]:
    """Has paid for /report once."""
    with Payer(tmp_path, [server_siwx], chain.keys["payer"]) as payer:
        answer = get(payer, f"{server_siwx}/report")
        assert answer.status_code == 200
        payer.settled()
        yield payer


def get(payer: Payer, url: str) -> httpx.Response:
    with httpx.Client(proxy=payer.egress.url, trust_env=False, timeout=60) as client:
        return client.get(url)


def seen(server: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = httpx.get(f"{server}/seen", trust_env=False, timeout=60).json()
    return events


def allow(payer: Payer, server: str) -> None:
    """Egress asks for the policy at its start, and every few seconds, which would be too long here."""
    payer.succeed("x402", "signin", "allow", server)
    payer.egress.stop()
    payer.egress.start()


def test_a_past_payer_signs_in_instead_of_paying_again(
    customer: Payer, server_siwx: str, chain: Chain
) -> None:
    allow(customer, server_siwx)
    before, signed = chain.balance("payer"), customer.signed()

    answer = get(customer, f"{server_siwx}/report")

    assert (answer.status_code, answer.json()) == (200, {"report": "all is well"})
    assert answer.headers["X-402-Egress"] == "signed-in"
    assert seen(server_siwx)[-1] == {
        "type": "access_granted",
        "resource": "/report",
        "address": chain.accounts["payer"],
    }
    assert (chain.balance("payer"), customer.signed()) == (before, signed)
    (entry,) = customer.entries("x402.signin.signed")
    assert entry["data"]["address"] == chain.accounts["payer"]
    assert verify_offline(customer.keyd).ok


def test_where_the_server_knows_no_payment_the_sign_in_is_refused_and_it_is_paid(
    customer: Payer, server_siwx: str, chain: Chain
) -> None:
    allow(customer, server_siwx)
    before = chain.balance("payer")

    answer = get(customer, f"{server_siwx}/news")

    assert (answer.status_code, answer.json()) == (200, {"news": "none"})
    assert answer.headers["X-402-Egress"].startswith("paid; amount=0.001; ")
    customer.settled()
    assert before - chain.balance("payer") == 1_000
    assert len(customer.entries("x402.signin.signed")) == 1


def test_by_default_the_second_time_is_paid_like_the_first(
    customer: Payer, server_siwx: str, chain: Chain
) -> None:
    before = chain.balance("payer")

    answer = get(customer, f"{server_siwx}/report")

    assert answer.headers["X-402-Egress"].startswith("paid; ")
    customer.settled()
    assert before - chain.balance("payer") == 1_000
    assert customer.entries("x402.signin.signed") == []


def test_a_payment_identifier_that_the_official_server_requires_is_ours(
    customer: Payer, server_siwx: str
) -> None:
    answer = get(customer, f"{server_siwx}/once")

    payment_id = answer.headers["X-402-Egress"].partition("payment=")[2].partition(";")[0]
    assert (answer.status_code, answer.json()) == (200, {"id": f"pay_{payment_id}"})
    customer.settled()
