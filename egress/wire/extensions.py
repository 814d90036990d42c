"""Extensions of a 402 in the payment that answers it: echoed as they came, one answered, given up for room.

Pure. A client echoes `extensions` and may append members to an entry's `info`, never change one (x402
specification v2, extensions). Only `payment-identifier` is answered (specs/extensions/payment_identifier.md): its
`info.id` lets the seller recognise a payment that arrives twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

PAYMENT_IDENTIFIER: Final = "payment-identifier"
OFFER_RECEIPT: Final = "offer-receipt"
_BAZAAR: Final = "bazaar"

type Extensions = Mapping[str, Any]


class NoRoom(ValueError):
    """An extension that the seller requires is too large to be answered."""


def answered(extensions: Extensions, payment_id: str) -> Extensions:
    """`extensions` with `info.id` = "pay_" + `payment_id` for the seller who asks for it.

    keyd gives a repeat of the request the same payment id, so the id is as stable as the payment.
    """
    entry = extensions.get(PAYMENT_IDENTIFIER)
    if not isinstance(entry, dict) or not isinstance(entry.get("info"), dict) or "id" in entry["info"]:
        return extensions
    info = {**entry["info"], "id": f"pay_{payment_id}"}
    return {**extensions, PAYMENT_IDENTIFIER: {**entry, "info": info}}


def fitting(extensions: Extensions, room: int) -> Extensions | None:
    """As much of `extensions` as fits into `room` bytes of JSON; None if nothing does.

    `bazaar` goes first, which only catalogues the seller; then the schemas, which no seller compares; then whole
    entries, the largest first. Raises NoRoom if that would be a payment identifier that the seller requires: it
    would refuse the payment after it was sent.
    """
    without_bazaar = {name: entry for name, entry in extensions.items() if name != _BAZAAR}
    without_schemas = {name: _without_schema(entry) for name, entry in without_bazaar.items()}
    for candidate in (extensions, without_bazaar, without_schemas):
        if candidate and size(candidate) <= room:
            return candidate
    sizes = {name: size({name: entry}) for name, entry in without_schemas.items()}
    kept: set[str] = set()
    if _requires_identifier(without_schemas):
        kept.add(PAYMENT_IDENTIFIER)
        room -= sizes[PAYMENT_IDENTIFIER]
        if room < 0:
            raise NoRoom(f"extension {PAYMENT_IDENTIFIER} is required and too large")
    for name in sorted(sizes.keys() - kept, key=lambda name: sizes[name]):
        if sizes[name] > room:
            break
        kept.add(name)
        room -= sizes[name]
    return {name: entry for name, entry in without_schemas.items() if name in kept} or None


def size(value: Mapping[str, Any]) -> int:
    """Bytes of `value` as it is sent."""
    return len(encode(value))


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8, as payments are sent."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _without_schema(entry: Any) -> Any:
    return (
        {name: value for name, value in entry.items() if name != "schema"}
        if isinstance(entry, dict)
        else entry
    )


def _requires_identifier(extensions: Extensions) -> bool:
    entry = extensions.get(PAYMENT_IDENTIFIER)
    info = entry.get("info") if isinstance(entry, dict) else None
    return isinstance(info, dict) and info.get("required") is True
