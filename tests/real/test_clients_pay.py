"""Unmodified programs pay the official servers, and the chain agrees with the ledger to the atomic unit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.real.support.clients import CLIENTS, fetch
from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer, verify_offline

pytestmark = pytest.mark.real

WEATHER, ECHO = 1_000, 10_000
"""Prices of /weather and /echo in atomic units."""


@pytest.fixture(autouse=True)
def _chain_and_ledger_agree(payer: Payer, chain: Chain) -> Iterator[None]:
    """Whatever a test pays: the payer's balance falls by exactly what the ledger says was settled."""
    balance, settled, received = chain.balance("payer"), payer.settled(), chain.balance("payee")
    yield
    paid = balance - chain.balance("payer")
    assert paid == payer.settled() - settled
    assert paid == chain.balance("payee") - received
    assert verify_offline(payer.keyd).ok


@pytest.fixture(params=["http", "https", "v1"])
def server(request: pytest.FixtureRequest) -> str:
    name = {"http": "server_http", "https": "server_https", "v1": "server_v1"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


@pytest.mark.parametrize("client", CLIENTS)
def test_a_program_that_knows_nothing_of_payments_gets_a_paid_answer(
    client: str, server: str, payer: Payer, chain: Chain
) -> None:
    before = chain.balance("payer")

    answer = fetch(client, f"{server}/weather", payer.environment)

    assert (answer.status, json.loads(answer.body)) == (200, {"weather": "sunny"})
    assert before - chain.balance("payer") == WEATHER


@pytest.mark.parametrize("client", CLIENTS)
def test_the_paid_repeat_carries_the_same_body(client: str, server: str, payer: Payer, chain: Chain) -> None:
    before, body = chain.balance("payer"), f"how much is the fish? {client} " * 1000

    answer = fetch(client, f"{server}/echo", payer.environment, "POST", body)

    assert answer.status == 200
    assert json.loads(answer.body) == {"sha256": hashlib.sha256(body.encode()).hexdigest()}
    assert before - chain.balance("payer") == ECHO


def test_without_the_proxy_the_same_request_is_refused(server: str, payer: Payer, chain: Chain) -> None:
    before = chain.balance("payer")

    environment = {k: v for k, v in payer.environment.items() if not k.lower().endswith("_proxy")}
    environment["CURL_CA_BUNDLE"] = str(chain.file.parent / "ca.pem")
    answer = fetch("curl", f"{server}/weather", environment)

    assert answer.status == 402
    assert chain.balance("payer") == before


def test_a_handler_that_fails_after_the_payment_was_verified_takes_nothing(
    payer: Payer, server_http: str, chain: Chain
) -> None:
    """The server did not settle, but it could until validBefore: the budget stays spent."""
    before, spent = chain.balance("payer"), payer.policy()["spent_today"]

    answer = fetch("curl", f"{server_http}/boom", payer.environment)

    assert (answer.status, json.loads(answer.body)) == (500, {"error": "boom"})
    assert chain.balance("payer") == before
    assert payer.policy()["spent_today"] != spent
