"""What sellers sign: offers and receipts (x402 extension `offer-receipt`), verified and kept as evidence. Pure.

Never a condition: a payment is judged, made and settled without them, and what cannot be read is left out. Only the
EIP-712 form is verified, by recovering its signer. It counts as the seller's word if the signer is the recipient of the
payment; who else may sign for a host is not for keyd to find out. The JWS form, whose keys would have to be looked up in
the network, is kept as it came and called unverified. A seller's signature moves nothing, unlike ours: it may be kept.

Source: x402 specs/extensions/extension-offer-and-receipt.md and the official client's types, version 1.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import coincurve

from keyd.core.evm import address_of, keccak256

MAX_OFFERS: Final = 16
"""Signed offers looked at in one 402, as offers."""
MAX_JWS: Final = 4096
"""Characters of a JWS that is kept; one of an offer takes about 700."""
_MAX_TEXT: Final = 2048
_MAX_INTEGER: Final = 2**53 - 1
"""What the ledger can hold, and every JSON reader keeps exact."""
CLOCK_SKEW_S: Final = 600
"""How far the seller's clock may be off before a receipt's time is called odd."""

_SIGNATURE: Final = re.compile(r"0x[0-9a-fA-F]{130}", re.ASCII)
_OFFER: Final = (
    ("version", "uint256"),
    ("resourceUrl", "string"),
    ("scheme", "string"),
    ("network", "string"),
    ("asset", "string"),
    ("payTo", "string"),
    ("amount", "string"),
    ("validUntil", "uint256"),
)
_RECEIPT: Final = (
    ("version", "uint256"),
    ("network", "string"),
    ("resourceUrl", "string"),
    ("payer", "string"),
    ("issuedAt", "uint256"),
    ("transaction", "string"),
)
_DOMAIN_TYPEHASH: Final = keccak256(b"EIP712Domain(string name,string version,uint256 chainId)")

type Members = tuple[tuple[str, str], ...]
type Kind = Literal["Offer", "Receipt"]
_MEMBERS: Final[Mapping[Kind, Members]] = {"Offer": _OFFER, "Receipt": _RECEIPT}
_DOMAINS: Final[Mapping[Kind, str]] = {"Offer": "x402 offer", "Receipt": "x402 receipt"}


@dataclass(frozen=True, slots=True)
class Paid:
    """The payment that an offer or a receipt is about, to hold it against."""

    origin: str
    """As the policy judged it: "https://api.example.com"."""
    network: str
    asset: str
    pay_to: str
    amount: int
    payer: str


def offer_evidence(offered: Sequence[object], paid: Paid, now_s: int) -> dict[str, Any] | None:
    """The signed offer for what is paid, as the ledger keeps it; None if there is none.

    It is found by its members, as the specification says, not by its place.
    """
    for artifact in offered[:MAX_OFFERS]:
        read = _read(artifact, "Offer")
        if read is None or not _is_offer_for(read[0], paid):
            continue
        payload, evidence = read
        notes = _about_origin(payload, paid)
        if 0 < payload["validUntil"] < now_s:
            notes.append("it had expired")
        return _judged(evidence, paid, notes)
    return None


def receipt_evidence(
    settlement: Mapping[str, Any] | None, paid: Paid, transaction: str | None, now_s: int
) -> dict[str, Any] | None:
    """The signed receipt in a SettlementResponse, as the ledger keeps it; None if there is none.

    `transaction`: the one that the settlement itself names, if it was believed.
    """
    artifact: object = settlement
    for member in ("extensions", "offer-receipt", "info", "receipt"):
        artifact = artifact.get(member) if isinstance(artifact, Mapping) else None
    read = _read(artifact, "Receipt")
    if read is None:
        return None
    payload, evidence = read
    notes = _about_origin(payload, paid)
    if payload["network"] != paid.network:
        notes.append("it names another network")
    if payload["payer"].lower() != paid.payer.lower():
        notes.append("it names another payer")
    if abs(payload["issuedAt"] - now_s) > CLOCK_SKEW_S:
        notes.append("its time is not that of the payment")
    stated = payload["transaction"].lower()
    if stated and transaction is not None and stated != transaction:
        notes.append("it names another transaction")
    return _judged(evidence, paid, notes)


def digest(kind: Kind, payload: Mapping[str, Any]) -> bytes:
    """The EIP-712 digest that a seller signs for `payload`, which has every member of its kind."""
    members = _MEMBERS[kind]
    type_ = f"{kind}({','.join(f'{type_} {name}' for name, type_ in members)})"
    struct = keccak256(type_.encode()) + b"".join(_encoded(payload[name]) for name, _ in members)
    domain = _DOMAIN_TYPEHASH + _encoded(_DOMAINS[kind]) + _encoded("1") + _encoded(1)
    return keccak256(b"\x19\x01" + keccak256(domain) + keccak256(struct))


def _encoded(value: str | int) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else keccak256(value.encode())


def _read(artifact: object, kind: Kind) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(payload, what the ledger keeps) of a signed artifact; None if it is not one."""
    if not isinstance(artifact, Mapping):
        return None
    signature = artifact.get("signature")
    if not isinstance(signature, str):
        return None
    if artifact.get("format") == "jws":
        payload = _payload(_jws_payload(signature), kind)
        return None if payload is None else (payload, {"format": "jws", "jws": signature, "signer": None})
    payload = _payload(artifact.get("payload"), kind)
    if artifact.get("format") != "eip712" or payload is None or not _SIGNATURE.fullmatch(signature):
        return None
    signer = _signer(digest(kind, payload), bytes.fromhex(signature[2:]))
    return payload, {"format": "eip712", "payload": payload, "signature": signature, "signer": signer}


def _payload(value: object, kind: Kind) -> dict[str, Any] | None:
    """The members that are signed, each of its type; others are not covered by the signature and not kept."""
    if not isinstance(value, Mapping):
        return None
    absent = {"validUntil": 0, "transaction": ""}
    payload = {name: value.get(name, absent.get(name)) for name, _ in _MEMBERS[kind]}
    for name, type_ in _MEMBERS[kind]:
        if not (_is_text(payload[name]) if type_ == "string" else _is_natural(payload[name])):
            return None
    return payload if payload["version"] == 1 else None


def _jws_payload(jws: str) -> object:
    parts = jws.split(".")
    if len(jws) > MAX_JWS or len(parts) != 3 or not jws.isascii():
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None


def _signer(digest_: bytes, signature: bytes) -> str | None:
    """Address of the key that signed; None if the signature is none."""
    v = signature[64] - 27 if signature[64] >= 27 else signature[64]
    if v not in (0, 1):
        return None
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes([v]), digest_, hasher=None
        )
    except Exception:  # noqa: BLE001 - libsecp256k1 says no in several ways
        return None
    return address_of(key.format(compressed=False))


def _is_offer_for(payload: Mapping[str, Any], paid: Paid) -> bool:
    stated = (payload["scheme"], payload["network"], payload["amount"])
    addresses = (payload["asset"].lower(), payload["payTo"].lower())
    return stated == ("exact", paid.network, str(paid.amount)) and addresses == (
        paid.asset.lower(),
        paid.pay_to.lower(),
    )


def _about_origin(payload: Mapping[str, Any], paid: Paid) -> list[str]:
    try:
        parts = urlsplit(payload["resourceUrl"])
    except ValueError:
        return ["its resource is no URL"]
    # Servers behind a proxy see themselves under other names: a note, and no more.
    return [] if f"{parts.scheme}://{parts.netloc}".lower() == paid.origin else ["it names another host"]


def _judged(evidence: dict[str, Any], paid: Paid, notes: list[str]) -> dict[str, Any]:
    signer = evidence["signer"]
    by_recipient = signer is not None and signer.lower() == paid.pay_to.lower()
    return evidence | {"verified": by_recipient, "notes": notes}


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)  # has no UTF-8 form, so nobody signed it


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER
