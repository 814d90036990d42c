"""Terms in osModa's flat dialect: exact sums with keyd's own table, the same judgement as any offer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core import flat
from keyd.core.assets import DEFAULT_ASSETS, AssetTable
from keyd.core.offers import Offer, PaymentRequirements, Unpayable, judge
from keyd.reasons import Reason
from tests.keyd.conftest import NETWORK, PAYER, SELLER, USDC

TABLE = AssetTable(DEFAULT_ASSETS)
NOW = 1_795_262_400
TERMS = {"amount": "0.001", "asset": "USDC", "chain": "base-sepolia", "payTo": SELLER, "expiry": NOW + 300}


def read(**members: Any) -> PaymentRequirements | Unpayable:
    (found,) = flat.read_offers([TERMS | members], TABLE, NOW)
    return found


def test_flat_terms_become_an_offer_that_is_judged_like_any_other() -> None:
    found = read()
    assert isinstance(found, PaymentRequirements)
    offer = judge(found, TABLE, frozenset({NETWORK}), PAYER)
    assert isinstance(offer, Offer)
    assert (offer.amount, offer.usd_micros, offer.pay_to, offer.window_s) == (1000, 1000, SELLER, 300)
    assert flat.as_json(offer) == {
        "scheme": "exact",
        "network": NETWORK,
        "amount": "1000",
        "asset": USDC,
        "payTo": SELLER,
        "maxTimeoutSeconds": 300,
        "extra": {"name": "USDC", "version": "2"},
    }


@pytest.mark.parametrize("chain", ["base-sepolia", "eip155:84532"])
@pytest.mark.parametrize("asset", ["USDC", USDC, USDC.lower()])
def test_chain_and_asset_may_be_names_or_the_things_themselves(chain: str, asset: str) -> None:
    found = read(chain=chain, asset=asset)
    assert isinstance(found, PaymentRequirements)
    assert (found.network, found.asset) == (NETWORK, USDC)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"amount": "0.0000001"}, Reason.AMOUNT_INVALID),
        ({"amount": "1e3"}, Reason.AMOUNT_INVALID),
        ({"amount": "-1"}, Reason.AMOUNT_INVALID),
        ({"amount": "+1"}, Reason.AMOUNT_INVALID),
        ({"amount": "0"}, Reason.AMOUNT_INVALID),
        ({"amount": "0.0"}, Reason.AMOUNT_INVALID),
        ({"amount": "1,5"}, Reason.AMOUNT_INVALID),
        ({"amount": "٣"}, Reason.AMOUNT_INVALID),
        ({"amount": "9" * 5000}, Reason.AMOUNT_INVALID),
        ({"amount": 0.001}, Reason.OFFER_MALFORMED),
        ({"amount": None}, Reason.OFFER_MALFORMED),
        ({"asset": "DOGE"}, Reason.ASSET_UNKNOWN),
        ({"asset": SELLER}, Reason.ASSET_UNKNOWN),
        ({"chain": "base"}, None),
        ({"chain": "nowhere"}, Reason.ASSET_UNKNOWN),
        ({"expiry": NOW + 9}, Reason.TIMEOUT_INVALID),
        ({"expiry": 0}, Reason.TIMEOUT_INVALID),
        ({"expiry": True}, Reason.TIMEOUT_INVALID),
        ({"expiry": str(NOW + 300)}, Reason.TIMEOUT_INVALID),
        ({"expiry": None}, Reason.TIMEOUT_INVALID),
    ],
    ids=str,
)
def test_what_is_not_exact_or_not_known_is_refused(members: dict[str, Any], reason: Reason | None) -> None:
    found = read(**members)
    assert (found.reason if isinstance(found, Unpayable) else None) == reason


def test_a_refusal_quotes_the_seller_escaped_and_clipped() -> None:
    found = read(asset="\x1b[2J" + "x" * 5000)
    assert isinstance(found, Unpayable)
    assert found.detail.isprintable()
    assert len(found.detail) < 400


@given(st.decimals(min_value=0, max_value=10**9, places=6))
def test_every_amount_is_exact(amount: Decimal) -> None:
    found = read(amount=f"{amount:f}")
    if amount == 0:
        assert isinstance(found, Unpayable)
    else:
        assert isinstance(found, PaymentRequirements)
        assert int(found.amount) == int(amount * 10**6)


@given(st.lists(st.recursive(st.none() | st.text() | st.integers(), lambda j: st.dictionaries(st.text(), j))))
def test_any_entries_are_read_or_refused_one_by_one(entries: list[object]) -> None:
    assert len(flat.read_offers(entries, TABLE, NOW)) == len(entries)
