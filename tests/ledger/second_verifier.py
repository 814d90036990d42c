"""A verifier written from docs/ledger-format.md alone: it shares no code with the package `ledger`, and must not.

It answers with the number of the first entry that is not as it must be, or None.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

OUTCOMES = {"settled", "refused", "unknown", "released"}


class Broken(Exception):
    """`number`: the entry at which it shows."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def canonical(value: Any) -> str:
    """RFC 8785, for what a ledger may hold."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() if abs(value) <= 2**53 - 1:
            return str(value)
        case str():
            return '"' + "".join(map(_escaped, value)) + '"'
        case list():
            return "[" + ",".join(map(canonical, value)) + "]"
        case dict():
            keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
            return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in keys) + "}"
    raise ValueError(value)


def _escaped(char: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    return short.get(char) or (f"\\u{ord(char):04x}" if char < " " else char)


class Ledger:
    """Entries taken in one after the other. Raises Broken at the first that is wrong."""

    def __init__(self) -> None:
        self.hashes = [bytes(32)]
        self.payments: dict[str, dict[str, Any]] = {}
        self.payment_entries: list[list[Any]] = []
        self.spend: dict[tuple[str, str, str], list[int]] = {}
        self.facts: dict[tuple[str, str], tuple[str, int]] = {}
        self.latest_day: str | None = None

    def take(self, text: str, hash_: bytes) -> None:
        number = len(self.hashes)
        try:
            entry = json.loads(text)
            sound = canonical(entry) == text and entry.keys() == {"seq", "ts", "type", "actor", "data"}
        except ValueError:
            raise Broken(number) from None
        preimage = b"osmoda-ledger/v1\n" + self.hashes[-1] + text.encode()
        if not sound or entry["seq"] != number or hashlib.sha256(preimage).digest() != hash_:
            raise Broken(number)
        self.hashes.append(hash_)
        try:
            self.fold(number, entry["type"], entry["data"])
        except (KeyError, ValueError):
            raise Broken(number) from None

    def fold(self, number: int, kind: str, data: dict[str, Any]) -> None:
        what = kind.removeprefix("x402.payment.")
        if what == "signed" != kind:
            if data["payment_id"] in self.payments:
                raise ValueError(data["payment_id"])
            self.payments[data["payment_id"]] = {
                "state": "signed", "delivered": False, "proven": False, "usd": data["usd_micros"],
                "day": data["day"], "domain": data["domain"], "caller": data["caller"], "signed": number,
                "last": number,
            }  # fmt: skip
            self._spent(self.payments[data["payment_id"]], data["usd_micros"], 1)
            self.latest_day = max(self.latest_day or "", data["day"])
        elif what in OUTCOMES and what != kind:
            self._outcome(self.payments[data["payment_id"]], what, data, number)
        if what != kind and what in OUTCOMES | {"signed"}:
            self.payment_entries.append([data["payment_id"], number])
        for fact in data.get("facts", []):
            key = fact["kind"], fact["key"]
            if fact["value"] is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = canonical(fact["value"]), number

    def _outcome(self, payment: dict[str, Any], what: str, data: dict[str, Any], number: int) -> None:
        proof = data.get("proof") is not None
        if what == "released":
            if (
                not proof
                or payment["state"] == "released"
                or (payment["state"] == "settled" and payment["proven"])
            ):
                raise ValueError(what)
            payment["state"], payment["proven"] = what, True
            self._spent(payment, -payment["usd"], 0)
        elif what == "settled" and proof:
            if payment["state"] == "released":
                self._spent(payment, payment["usd"], 0)
            payment["state"], payment["proven"] = what, True
        elif payment["state"] not in ("settled", "released"):
            payment["state"] = what
        if what != "released":
            payment["delivered"] |= data.get("delivered", False)
        payment["last"] = number

    def _spent(self, payment: dict[str, Any], usd: int, calls: int) -> None:
        sums = self.spend.setdefault((payment["day"], payment["domain"], payment["caller"]), [0, 0])
        sums[0], sums[1] = sums[0] + usd, sums[1] + calls

    def projection(self) -> dict[str, list[list[Any]]]:
        """As the vectors have it."""
        totals: dict[str, list[int]] = {}
        for (day, _, _), (usd, calls) in self.spend.items():
            total = totals.setdefault(day, [0, 0])
            total[0], total[1] = total[0] + usd, total[1] + calls
        return {
            "payments": sorted(
                [id_, p["state"], int(p["delivered"]), int(p["proven"]), p["usd"], p["signed"], p["last"]]
                for id_, p in self.payments.items()
            ),
            "payment_entries": sorted(self.payment_entries),
            "spend": sorted([*key, *sums] for key, sums in self.spend.items()),
            "spend_total": sorted([day, *sums] for day, sums in totals.items()),
            "facts": sorted([*key, *said] for key, said in self.facts.items()),
            "meta": [[len(self.hashes) - 1, self.latest_day]],
        }

    def has(self, heads: list[tuple[int, bytes]]) -> None:
        """Raises Broken with the first entry after the last head that agrees."""
        known = 0
        for size, hash_ in sorted(heads):
            if size >= len(self.hashes):
                raise Broken(len(self.hashes))
            if self.hashes[size] != hash_:
                raise Broken(known + 1)
            known = size


def head_of(note: str, vkey: str) -> tuple[int, bytes]:
    """Size and hash of a signed head. Raises InvalidSignature, ValueError."""
    text, signatures = note.split("\n\n")
    text += "\n"
    name, id_, key = vkey.split("+", 2)
    public = base64.b64decode(key)
    assert public[0] == 1
    assert hashlib.sha256(f"{name}\n".encode() + public).hexdigest()[:8] == id_
    for line in signatures.splitlines():
        dash, signer, encoded = line.split(" ")
        signature = base64.b64decode(encoded)
        if dash == "—" and signer == name and signature[:4].hex() == id_:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], text.encode())
            _, size, hash_ = text.splitlines()
            return int(size), base64.b64decode(hash_)
    raise InvalidSignature


def first_wrong(lines: list[str], heads: list[tuple[int, bytes]]) -> tuple[int | None, Ledger]:
    """The verification of docs/ledger-format.md, on the lines of an export."""
    ledger = Ledger()
    try:
        for line in lines:
            match = re.fullmatch(r'\{"entry":(\{.*\}),"hash":"([0-9a-f]{64})"\}', line, re.DOTALL)
            if match is None:
                return len(ledger.hashes), ledger
            ledger.take(match[1], bytes.fromhex(match[2]))
        ledger.has(heads)
    except Broken as broken:
        return broken.number, ledger
    return None, ledger
