"""Signed offers and receipts: verified against the official types, kept as evidence, never a condition."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from keyd.core import attestations
from keyd.core.attestations import Paid, offer_evidence, receipt_evidence
from ledger import canonical
from tests.keyd.conftest import NETWORK, NOON_US, PAYER, USDC, Rig, offer

SELLER_KEY = "0x" + "22" * 32
SELLER = Account.from_key(SELLER_KEY).address
NOW = NOON_US // 1_000_000
TX = "0x" + "ab" * 32
PAID = Paid("https://api.example.com", NETWORK, USDC, SELLER, 1000, PAYER)
OFFER: dict[str, Any] = {
    "version": 1,
    "resourceUrl": "https://api.example.com/weather",
    "scheme": "exact",
    "network": NETWORK,
    "asset": USDC,
    "payTo": SELLER,
    "amount": "1000",
    "validUntil": NOW + 300,
}
RECEIPT: dict[str, Any] = {
    "version": 1,
    "network": NETWORK,
    "resourceUrl": "https://api.example.com/weather",
    "payer": PAYER,
    "issuedAt": NOW,
    "transaction": TX,
}
TYPES = {
    "Offer": {
        "version": "uint256",
        "resourceUrl": "string",
        "scheme": "string",
        "network": "string",
        "asset": "string",
        "payTo": "string",
        "amount": "string",
        "validUntil": "uint256",
    },
    "Receipt": {
        "version": "uint256",
        "network": "string",
        "resourceUrl": "string",
        "payer": "string",
        "issuedAt": "uint256",
        "transaction": "string",
    },
}


def signed(kind: str, payload: dict[str, Any], key: str = SELLER_KEY) -> dict[str, Any]:
    """As an official server signs it, by an independent implementation of EIP-712."""
    typed = encode_typed_data(
        {"name": f"x402 {kind.lower()}", "version": "1", "chainId": 1},
        {kind: [{"name": name, "type": type_} for name, type_ in TYPES[kind].items()]},
        payload,
    )
    signature = Account.sign_message(typed, key).signature.to_0x_hex()
    return {"format": "eip712", "payload": payload, "signature": signature}


def jws(payload: dict[str, Any]) -> dict[str, Any]:
    parts = [json.dumps({"alg": "ES256K", "kid": "did:web:x#1"}), json.dumps(payload), "signature"]
    encoded = [base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts]
    return {"format": "jws", "signature": ".".join(encoded)}


def settlement(receipt: object) -> dict[str, Any]:
    return {
        "success": True,
        "transaction": TX,
        "network": NETWORK,
        "extensions": {"offer-receipt": {"info": {"receipt": receipt}}},
    }


def of_offer(*artifacts: object) -> dict[str, Any]:
    found = offer_evidence(artifacts, PAID, NOW)
    assert found is not None
    return found


def of_receipt(receipt: object) -> dict[str, Any]:
    found = receipt_evidence(settlement(receipt), PAID, TX, NOW)
    assert found is not None
    return found


def test_an_offer_that_the_recipient_signed_is_verified_and_kept_whole() -> None:
    artifact = signed("Offer", OFFER)
    assert of_offer(artifact) == {**artifact, "signer": SELLER, "verified": True, "notes": []}


def test_a_receipt_that_the_recipient_signed_is_verified_and_kept_whole() -> None:
    artifact = signed("Receipt", RECEIPT)
    assert of_receipt(artifact) == {**artifact, "signer": SELLER, "verified": True, "notes": []}


@pytest.mark.parametrize("change", [{"validUntil": NOW + 301}, {"resourceUrl": "https://api.example.com/b"}])
def test_a_changed_offer_is_nobodys(change: dict[str, Any]) -> None:
    forged = signed("Offer", OFFER) | {"payload": OFFER | change}
    found = of_offer(forged)
    assert found["verified"] is False
    assert found["signer"] != SELLER


def test_a_signature_of_another_key_is_kept_and_not_called_the_sellers() -> None:
    other = "0x" + "33" * 32
    found = of_receipt(signed("Receipt", RECEIPT, other))
    assert (found["verified"], found["signer"]) == (False, Account.from_key(other).address)


def test_an_offer_does_not_pass_for_a_receipt_nor_a_transfer() -> None:
    payload = dict.fromkeys({**TYPES["Offer"], **TYPES["Receipt"]}, "") | {
        "version": 1,
        "validUntil": 0,
        "issuedAt": 0,
    }
    assert attestations.digest("Offer", payload) != attestations.digest("Receipt", payload)


def test_the_offer_is_found_by_what_it_says_and_not_by_its_place() -> None:
    others = [
        signed("Offer", OFFER | {"amount": "2000"}),
        signed("Offer", OFFER | {"network": "eip155:1"}),
        signed("Offer", OFFER | {"payTo": PAYER}),
        "text",
    ]
    assert of_offer(*others, signed("Offer", OFFER))["payload"] == OFFER
    assert offer_evidence(others, PAID, NOW) is None


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"resourceUrl": "https://other.example/"}, "it names another host"),
        ({"resourceUrl": "https://[broken"}, "its resource is no URL"),
        ({"validUntil": NOW - 1}, "it had expired"),
        ({"validUntil": 0}, None),
    ],
)
def test_what_is_odd_about_an_offer_is_noted(change: dict[str, Any], note: str | None) -> None:
    found = of_offer(signed("Offer", OFFER | change))
    assert (found["verified"], found["notes"]) == (True, [note] if note else [])


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"network": "eip155:1"}, "it names another network"),
        ({"payer": SELLER}, "it names another payer"),
        ({"issuedAt": NOW - 601}, "its time is not that of the payment"),
        ({"transaction": "0x" + "cd" * 32}, "it names another transaction"),
        ({"transaction": ""}, None),
    ],
)
def test_what_is_odd_about_a_receipt_is_noted(change: dict[str, Any], note: str | None) -> None:
    found = of_receipt(signed("Receipt", RECEIPT | change))
    assert (found["verified"], found["notes"]) == (True, [note] if note else [])


def test_a_jws_is_kept_as_it_came_and_called_unverified() -> None:
    artifact = jws(OFFER)
    assert of_offer(artifact) == {
        "format": "jws",
        "jws": artifact["signature"],
        "signer": None,
        "verified": False,
        "notes": [],
    }
    assert of_receipt(jws(RECEIPT))["verified"] is False


@pytest.mark.parametrize(
    "artifact",
    [
        None,
        [],
        {},
        {"format": "eip712"},
        {"format": "eip712", "payload": OFFER, "signature": "0x12"},
        {"format": "eip712", "payload": OFFER | {"version": 2}, "signature": "0x" + "11" * 65},
        {"format": "eip712", "payload": OFFER | {"version": True}, "signature": "0x" + "11" * 65},
        {"format": "eip712", "payload": OFFER | {"validUntil": -1}, "signature": "0x" + "11" * 65},
        {"format": "eip712", "payload": OFFER | {"validUntil": 2**60}, "signature": "0x" + "11" * 65},
        {"format": "eip712", "payload": OFFER | {"resourceUrl": "x" * 3000}, "signature": "0x" + "11" * 65},
        {"format": "jws", "signature": "a.b"},
        {"format": "jws", "signature": "a.%%%.c"},
        {"format": "jws", "signature": "a." + "b" * 5000 + ".c"},
        {"format": "new", "payload": OFFER, "signature": "0x" + "11" * 65},
    ],
)
def test_what_cannot_be_read_is_left_out(artifact: object) -> None:
    assert offer_evidence([artifact], PAID, NOW) is None
    assert receipt_evidence(settlement(artifact), PAID, TX, NOW) is None


def test_a_signature_that_recovers_to_nothing_is_kept_without_a_signer() -> None:
    for signature in ("0x" + "00" * 65, "0x" + "ff" * 65, "0x" + "11" * 64 + "1d"):
        found = of_offer({"format": "eip712", "payload": OFFER, "signature": signature})
        assert (found["signer"], found["verified"]) == (None, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
ARTIFACTS = JSON | st.fixed_dictionaries(
    {"format": st.sampled_from(["eip712", "jws", "x"]), "signature": st.text(max_size=140)},
    optional={"payload": st.fixed_dictionaries({}, optional=dict.fromkeys([*OFFER, *RECEIPT], JSON))},
)


@given(st.lists(ARTIFACTS, max_size=3), JSON)
def test_whatever_a_seller_sends_the_evidence_can_be_written(artifacts: list[object], other: Any) -> None:
    for found in (
        offer_evidence(artifacts, PAID, NOW),
        *(receipt_evidence(settlement(artifact), PAID, TX, NOW) for artifact in artifacts),
        receipt_evidence(other if isinstance(other, dict) else None, PAID, TX, NOW),
    ):
        assert found is None or canonical.encode(found)


# -- in the ledger -------------------------------------------------------------------------------------------


async def test_offer_and_receipt_are_recorded_with_the_payment(rig: Rig) -> None:
    payment = await rig.paid(offer(payTo=SELLER), signed_offers=["text", signed("Offer", OFFER)])
    (entry,) = rig.entries("x402.payment.signed")
    assert entry.data["signed_offer"]["verified"] is True
    await rig.report(payment, http_status=200, settlement=settlement(signed("Receipt", RECEIPT)))
    (entry,) = rig.entries("x402.payment.settled")
    assert (entry.data["receipt"]["verified"], entry.data["receipt"]["payload"]) == (True, RECEIPT)


async def test_a_payment_is_the_same_without_them_and_with_forged_ones(rig: Rig) -> None:
    forged = signed("Offer", OFFER, "0x" + "33" * 32)
    payment = await rig.paid(offer(payTo=SELLER), signed_offers=[forged])
    assert rig.entries("x402.payment.signed")[-1].data["signed_offer"]["verified"] is False
    assert await rig.report(payment, http_status=200, settlement=settlement({"format": "?"})) == "settled"
    assert "receipt" not in rig.entries("x402.payment.settled")[-1].data
    await rig.paid(offer(payTo=SELLER), what=2)
    assert "signed_offer" not in rig.entries("x402.payment.signed")[-1].data


async def test_a_receipt_proves_no_settlement(rig: Rig) -> None:
    """Only the settlement itself and the chain say what became of the money."""
    payment = await rig.paid(offer(payTo=SELLER))
    claimed = settlement(signed("Receipt", RECEIPT)) | {"success": False, "transaction": ""}
    assert await rig.report(payment, http_status=500, settlement=claimed) == "unknown"
    assert rig.entries("x402.payment.unknown")[-1].data["receipt"]["verified"] is True
