"""Each entry of `accepts` alone: what keyd reads, and why it refuses."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core.assets import DEFAULT_ASSETS, V1_NETWORKS, Asset, AssetTable
from keyd.core.offers import Offer, PaymentRequirements, Unpayable, judge
from keyd.reasons import Reason
from ledger import canonical

USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
SELLER = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
PAYER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
NETWORKS = frozenset({"eip155:84532"})
TABLE = AssetTable(DEFAULT_ASSETS)
V2 = {
    "scheme": "exact",
    "network": "eip155:84532",
    "amount": "1000",
    "asset": USDC,
    "payTo": SELLER,
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
V1 = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "1000",
    "asset": USDC,
    "payTo": SELLER,
    "maxTimeoutSeconds": 60,
    "resource": "https://api.example.com/weather",
    "extra": {"name": "USDC", "version": "2"},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def verdict(entry: Any, version: Any = 2, table: AssetTable = TABLE) -> Offer | Unpayable:
    return judge(PaymentRequirements.from_json(0, entry, version), table, NETWORKS, PAYER)


def changed(base: dict[str, Any], **members: Any) -> dict[str, Any]:
    return copy.deepcopy(base) | members


@pytest.mark.parametrize(("entry", "version"), [(V1, 1), (V2, 2)])
def test_both_versions_of_an_offer_mean_the_same(entry: dict[str, Any], version: int) -> None:
    asset = TABLE.find("eip155:84532", USDC)
    assert asset is not None
    assert verdict(entry, version) == Offer(0, asset, 1000, 1000, SELLER, 60)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"scheme": "upto"}, Reason.SCHEME_UNSUPPORTED),
        ({"scheme": "batch-settlement"}, Reason.SCHEME_UNSUPPORTED),
        ({"network": "eip155:8453"}, Reason.NETWORK_NOT_ALLOWED),
        ({"network": "base-sepolia"}, Reason.NETWORK_UNKNOWN),
        ({"network": "eip155:084532"}, Reason.NETWORK_UNKNOWN),
        ({"network": "eip155:84532 "}, Reason.NETWORK_UNKNOWN),
        ({"network": "eip155:999999"}, Reason.NETWORK_UNKNOWN),
        ({"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"}, Reason.NETWORK_UNKNOWN),
        ({"asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7f"}, Reason.ASSET_UNKNOWN),
        ({"asset": "USDC"}, Reason.ASSET_UNKNOWN),
        ({"asset": ""}, Reason.ASSET_UNKNOWN),
        ({"extra": {"name": "USD Coin", "version": "2"}}, Reason.ASSET_MISMATCH),
        ({"extra": {"name": "USDC", "version": "1"}}, Reason.ASSET_MISMATCH),
        ({"extra": {"name": ["USDC"], "version": "2"}}, Reason.ASSET_MISMATCH),
        ({"extra": {"assetTransferMethod": "permit2"}}, Reason.TRANSFER_METHOD_UNSUPPORTED),
        ({"extra": {"assetTransferMethod": "erc7710"}}, Reason.TRANSFER_METHOD_UNSUPPORTED),
        ({"extra": {"paymentFlow": "upfront"}}, Reason.PAYMENT_FLOW_UNSUPPORTED),
        ({"extra": {"paymentFlow": "escrow"}}, Reason.PAYMENT_FLOW_UNSUPPORTED),
        ({"amount": "0"}, Reason.AMOUNT_INVALID),
        ({"amount": "-1"}, Reason.AMOUNT_INVALID),
        ({"amount": "01"}, Reason.AMOUNT_INVALID),
        ({"amount": str(2**256)}, Reason.AMOUNT_INVALID),
        ({"payTo": "0x" + "0" * 40}, Reason.PAY_TO_INVALID),
        ({"payTo": USDC}, Reason.PAY_TO_INVALID),
        ({"payTo": PAYER.lower()}, Reason.PAY_TO_INVALID),
        ({"payTo": SELLER.replace("B", "b", 1)}, Reason.PAY_TO_INVALID),
        ({"payTo": SELLER[:-1]}, Reason.PAY_TO_INVALID),
        ({"payTo": "merchant"}, Reason.PAY_TO_INVALID),
        ({"maxTimeoutSeconds": 0}, Reason.TIMEOUT_INVALID),
        ({"maxTimeoutSeconds": -5}, Reason.TIMEOUT_INVALID),
        ({"maxTimeoutSeconds": 60.0}, Reason.TIMEOUT_INVALID),
        ({"maxTimeoutSeconds": True}, Reason.TIMEOUT_INVALID),
        ({"maxTimeoutSeconds": "60"}, Reason.TIMEOUT_INVALID),
        ({"maxTimeoutSeconds": None}, Reason.TIMEOUT_INVALID),
    ],
)
def test_an_offer_is_refused_for_its_first_fault(members: dict[str, Any], reason: Reason) -> None:
    found = verdict(changed(V2, **members))
    assert isinstance(found, Unpayable)
    assert found.reason is reason


@pytest.mark.parametrize("address", [SELLER, SELLER.lower(), "0x" + SELLER[2:].upper()])
def test_an_address_without_a_checksum_is_accepted_in_one_case(address: str) -> None:
    found = verdict(changed(V2, payTo=address, asset=USDC.lower()))
    assert isinstance(found, Offer)
    assert found.pay_to == SELLER


def test_decimals_and_price_come_from_the_table_whatever_the_offer_says() -> None:
    table = AssetTable(
        [*DEFAULT_ASSETS, Asset("eip155:84532", USDC, "USDC", "USDC", "2", 2, usd_per_token=2_000_000)]
    )
    found = verdict(changed(V2, amount="150", decimals=18), table=table)
    assert isinstance(found, Offer)
    assert found.usd_micros == 3_000_000  # 1.50 tokens at 2 USD


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"amount": 1000}, "amount is not a string"),
        ({"amount": None}, "amount is missing"),
        ({"maxAmountRequired": "2000"}, "contradict"),
        ({"payTo": 7}, "payTo is not a string"),
        ({"extra": "{}"}, "extra is not an object"),
        ({"extra": []}, "extra is not an object"),
    ],
)
def test_a_malformed_offer_is_refused_in_words(members: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PaymentRequirements.from_json(0, changed(V2, **members), 2)


def test_v1_may_carry_extra_as_json_text() -> None:
    assert isinstance(verdict(changed(V1, extra='{"name":"USDC","version":"2"}'), 1), Offer)
    with pytest.raises(ValueError, match="extra is not JSON"):
        PaymentRequirements.from_json(0, changed(V1, extra="{" * 100_000), 1)


def test_every_v1_name_maps_to_a_caip2_id() -> None:
    assert all(caip2.removeprefix("eip155:").isdecimal() for caip2 in V1_NETWORKS.values())


@given(JSON, st.sampled_from([1, 2]))
def test_nothing_a_server_sends_raises_anything_but_value_error(entry: Any, version: Any) -> None:
    try:
        terms = PaymentRequirements.from_json(0, entry, version)
    except ValueError:
        return
    assert isinstance(judge(terms, TABLE, NETWORKS, PAYER), Offer | Unpayable)


@given(st.dictionaries(st.sampled_from([*V2, "maxAmountRequired"]), JSON), st.sampled_from([1, 2]))
def test_a_half_right_offer_is_judged_or_refused_and_its_summary_can_be_recorded(
    members: dict[str, Any], version: Any
) -> None:
    try:
        terms = PaymentRequirements.from_json(0, changed(V2 if version == 2 else V1, **members), version)
    except ValueError:
        return
    found = judge(terms, TABLE, NETWORKS, PAYER)
    if isinstance(found, Offer):
        assert 0 < found.amount < 2**256
        assert found.window_s > 0
    assert len(canonical.encode(terms.summary())) < 8_000


def test_a_sellers_text_cannot_forge_a_log_line() -> None:
    found = verdict(changed(V2, scheme='exact"}\n{"event":"keyd.paid\x1b[2J' + "x" * 10_000))
    assert isinstance(found, Unpayable)
    assert found.detail.isprintable()
    assert len(found.detail) < 500
