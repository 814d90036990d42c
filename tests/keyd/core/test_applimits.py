"""What an application may say about its own request: only ever tighter."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core.applimits import AppLimits
from keyd.core.assets import DEFAULT_ASSETS
from keyd.core.offers import Offer
from keyd.reasons import Reason
from tests.keyd.conftest import SELLER, Rig, offer

USDC = next(a for a in DEFAULT_ASSETS if a.network == "eip155:84532")
ELSEWHERE = {"network": "eip155:10143", "asset": "0x534b2f3A21130d7a60830c2Df862319e593943A3", "extra": {}}


@pytest.mark.parametrize(
    "cap", ["0.001", "0.05", "USDC:0.001", "USDC@base-sepolia:0.001", "USDC@eip155:84532:0.05"]
)
async def test_a_price_within_the_applications_cap_is_paid(rig: Rig, cap: str) -> None:
    await rig.paid(offer("1000"), max_spend=cap)


@pytest.mark.parametrize(
    "cap",
    ["0.000999", "0", "USDC:0.0009999", "USDC@base-sepolia:0.0005", "USDC@base:0.05", "USDT:0.05"],
)
async def test_a_price_beyond_it_is_refused(rig: Rig, cap: str) -> None:
    assert (await rig.refused(offer("1000"), max_spend=cap)).reason is Reason.APP_LIMIT


@pytest.mark.parametrize(
    "members",
    [
        {"max_spend": ""},
        {"max_spend": "five cents"},
        {"max_spend": "-1"},
        {"max_spend": "1e9"},
        {"max_spend": "USDC:"},
        {"max_spend": "USDC@atlantis:1"},
        {"max_spend": "USDC:0"},
        {"max_spend": ":1"},
        {"prefer": ""},
        {"prefer": "USDC@"},
        {"prefer": "{"},
        {"prefer": '{"asset": 1}'},
        {"prefer": "[" * 1000},
    ],
)
async def test_what_cannot_be_read_is_no_permission(rig: Rig, members: dict[str, Any]) -> None:
    assert (await rig.refused(**members)).reason is Reason.APP_LIMIT_MALFORMED


async def test_the_applications_cap_never_lifts_the_administrators(rig: Rig) -> None:
    assert (await rig.refused(offer("200000"), max_spend="1000")).reason is Reason.CAP_PER_PAYMENT


@pytest.mark.parametrize(
    "prefer", ["USDC@monad-testnet", "USDC@eip155:10143", '{"asset": "USDC", "network": "monad-testnet"}']
)
async def test_the_preferred_token_is_taken_although_another_is_cheaper(rig: Rig, prefer: str) -> None:
    rig.policy(networks=frozenset({"eip155:84532", "eip155:10143"}))
    offers = [offer("1000"), offer("1500", **ELSEWHERE)]
    assert (await rig.paid(*offers, what=1, prefer=prefer)).payment.offer.index == 1


async def test_a_preference_that_nobody_offers_or_allows_changes_nothing(rig: Rig) -> None:
    offers = [offer("1000"), offer("1500", **ELSEWHERE)]
    assert (await rig.paid(*offers, what=1, prefer="USDC@monad-testnet")).payment.offer.index == 0
    assert (await rig.paid(*offers, what=2, prefer="USDT")).payment.offer.index == 0


@given(st.none() | st.text(max_size=40), st.none() | st.text(max_size=40), st.integers(1, 2**256 - 1))
def test_no_text_does_anything_but_limit_or_refuse(cap: str | None, prefer: str | None, amount: int) -> None:
    try:
        limits = AppLimits.parse(cap, prefer)
    except ValueError:
        return
    priced = Offer(0, USDC, amount, amount, SELLER, 60)
    assert limits.preferred([priced]) == [priced]
    assert limits.cap is None or limits.cap.against(priced) is None or limits.cap.against(priced) != ""


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_token_cap_means_at_most_so_many_atomic_units(cap: int, amount: int) -> None:
    limits = AppLimits.parse(f"USDC:{cap // 10**6}.{cap % 10**6:06}", None)
    assert limits.cap is not None
    assert (limits.cap.against(Offer(0, USDC, amount, amount, SELLER, 60)) is None) == (amount <= cap)
