"""The decision as a pure function."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core import policy
from keyd.core.policy import Allow, Deny, Spent, Standing, decide
from keyd.reasons import Reason
from tests.keyd.conftest import PAYER, POLICY, intent, offer

FAULTS: list[tuple[dict[str, Any], Reason]] = [
    ({"amount": 5}, Reason.OFFER_MALFORMED),
    ({"scheme": "upto"}, Reason.SCHEME_UNSUPPORTED),
    ({"network": "x"}, Reason.NETWORK_UNKNOWN),
    ({"network": "eip155:1"}, Reason.NETWORK_NOT_ALLOWED),
    ({"asset": "x"}, Reason.ASSET_UNKNOWN),
    ({"extra": {"assetTransferMethod": "permit2"}}, Reason.TRANSFER_METHOD_UNSUPPORTED),
    ({"extra": {"paymentFlow": "escrow"}}, Reason.PAYMENT_FLOW_UNSUPPORTED),
    ({"extra": {"name": "x"}}, Reason.ASSET_MISMATCH),
    ({"amount": "0"}, Reason.AMOUNT_INVALID),
    ({"payTo": "x"}, Reason.PAY_TO_INVALID),
    ({"maxTimeoutSeconds": 0}, Reason.TIMEOUT_INVALID),
]


@pytest.mark.parametrize("stage", range(len(FAULTS)))
def test_the_checks_of_an_offer_run_in_the_order_that_ranks_refusals(stage: int) -> None:
    """An offer with this fault and every later one is refused for this one; `_STAGE` says so, too."""
    members: dict[str, Any] = {}
    for fault, _ in reversed(FAULTS[stage:]):
        members |= fault | ({"extra": members.get("extra", {}) | fault["extra"]} if "extra" in fault else {})
    decision = decide(intent(offer(**members)), POLICY, payer=PAYER, standing=Standing())
    assert isinstance(decision, Deny)
    assert decision.reason is FAULTS[stage][1]
    assert policy._STAGE[decision.reason] == stage


def test_the_reason_is_that_of_the_offer_that_came_furthest() -> None:
    offers = [offer(scheme="upto"), offer(payTo="x"), offer(network="eip155:1")]
    decision = decide(intent(*offers), POLICY, payer=PAYER, standing=Standing())
    assert isinstance(decision, Deny)
    assert decision.reason is Reason.PAY_TO_INVALID


@given(
    prices=st.lists(st.integers(1, 200_000), min_size=1, max_size=6),
    spent=st.integers(0, 1_100_000),
    cap=st.integers(0, 200_000),
    budget=st.integers(0, 1_000_000),
)
def test_what_is_allowed_is_the_cheapest_and_within_cap_and_budget(
    prices: list[int], spent: int, cap: int, budget: int
) -> None:
    rules = dataclasses.replace(POLICY, max_payment=cap, daily_budget=budget)
    decision = decide(
        intent(*[offer(str(p)) for p in prices]),
        rules,
        payer=PAYER,
        standing=Standing(spent=Spent(total=spent)),
    )
    fits = min(prices) <= cap and spent + min(prices) <= budget
    assert isinstance(decision, Allow) == fits
    if isinstance(decision, Allow):
        assert decision.offer.usd_micros == min(prices)
        assert decision.offer.index == prices.index(min(prices))


def test_every_reason_has_an_explanation_and_a_way_out() -> None:
    for reason in Reason:
        assert reason.explanation.summary.endswith(".")
        assert reason.hint.rstrip().endswith(".")
