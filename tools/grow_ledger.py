"""Makes a long ledger of payments that never were, to measure and try things out on.

    python -m tools.grow_ledger FILE ENTRIES

The same numbers give the same entries. They look as keyd writes them: an attempt with its offer, the signed
payment, its outcome with the receipt; now and then a refusal, a proof from the chain, a new host with its pin.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledger import Ledger, chain, entry, projection
from ledger.chain import GENESIS, Head
from tools.held_tables import HeldTables

STEP_S: Final = 5
"""Seconds between two payments: some 17 000 a day, so ten million entries are half a year."""
DOMAINS: Final = 50
CALLERS: Final = 5
_START_S: Final = 1_767_225_600  # 2026-01-01T00:00:00Z
_BATCH: Final = 5000
_PAYER: Final = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
_SELLER: Final = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
_TERMS: Final = {"asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "network": "eip155:84532"}
_FOLDED: Final = frozenset({projection.SIGNED, *projection.OUTCOMES})

type Row = tuple[str, dict[str, Any]]


def grow(path: Path, entries: int, *, said: Callable[[str], None] = lambda _: None) -> None:
    """Makes a ledger of at least `entries` entries at `path`, some thirty thousand a second.

    That is eight times as fast as appending them: the projection is folded in memory, indexes are made at the end, and
    nothing is durable before it is done. Raises FileExistsError.
    """
    if path.exists():
        raise FileExistsError(path)
    Ledger.open(path, clock=lambda: _START_S * 1_000_000).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000;")
        indexes = db.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            db.execute(f"DROP INDEX {name}")
        db.execute("BEGIN")
        _fill(db, entries, said)
        for _, statement in indexes:
            db.execute(statement)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")


def _fill(db: sqlite3.Connection, entries: int, said: Callable[[str], None]) -> None:
    head, number, tables = Head(0, GENESIS), 0, HeldTables(db)
    rows: list[tuple[int, str, bytes]] = []
    while head.seq < entries:
        ts = entry.timestamp((_START_S + number * STEP_S) * 1_000_000)
        for type_, data in payment(number):
            encoded, members = entry.encode_and_parse(head.seq + 1, ts, type_, "uid:991", data)
            head = Head(head.seq + 1, chain.link(head.hash, encoded))
            if type_ in _FOLDED or "facts" in data:
                tables.signing = type_ == projection.SIGNED
                projection.fold(entry.from_members(members, head.hash), tables)
            rows.append((head.seq, encoded.decode(), head.hash))
        number += 1
        if len(rows) >= _BATCH or head.seq >= entries:
            db.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
            rows.clear()
            said(f"{head.seq} entries")
    tables.store(head)
    db.execute("DROP TABLE held_entries")


def payment(number: int) -> Iterator[Row]:
    """The entries of one payment, in order."""
    at, token = _START_S + number * STEP_S, hashlib.sha256(b"payment %d" % number).hexdigest()
    domain, caller = f"api{number % DOMAINS}.example.com", f"uid:{1000 + number % CALLERS}"
    day = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
    amount = 1000 + number % 7 * 500
    offer = {"amount": str(amount), "extra": {"name": "USDC", "version": "2"}, "max_timeout_seconds": 60}
    asked = {
        "caller": caller,
        "domain": domain,
        "fingerprint": token,
        "intent": None,
        "max_spend": None,
        "method": "GET",
        "offers": [offer | _TERMS | {"pay_to": _SELLER, "scheme": "exact"}],
        "path": f"/items/{number % 20}",
        "prefer": None,
        "repeat_of": None,
        "resource_url": f"https://{domain}/items/{number % 20}",
        "x402_version": 2,
    }
    yield "x402.payment.attempt", asked
    if number % 40 == 39:
        refusal = {"attempt": 1, "caller": caller, "code": "cap_per_payment", "detail": "0.5 USD > 0.1 USD"}
        yield "x402.payment.rejected", refusal | {"domain": domain}
        return
    payment_id = token[:32]
    authorization = {
        "from": _PAYER,
        "nonce": f"0x{token}",
        "to": _SELLER,
        "validAfter": str(at - 600),
        "validBefore": str(at + 60),
        "value": str(amount),
    }
    signed = {
        "amount": str(amount),
        "asset_symbol": "USDC",
        "attempt": 1,
        "authorization": authorization,
        "caller": caller,
        "day": day,
        "digest": token,
        "domain": domain,
        "intent_key": token,
        "payment_id": payment_id,
        "signed_at": at,
        "usd_micros": amount,
        "valid_before": at + 60,
        "wallet": "default",
    }
    pin = {"key": domain, "kind": "pin", "value": _TERMS | {"pay_to": _SELLER}}
    yield "x402.payment.signed", signed | _TERMS | ({"facts": [pin]} if number < DOMAINS else {})
    yield from _outcomes(number, payment_id, f"0x{token}", at)


def _outcomes(number: int, payment_id: str, transaction: str, at: int) -> Iterator[Row]:
    seen = {"delivered": True, "http_status": 200, "notes": [], "payment_id": payment_id}
    proof = {
        "block_hash": transaction,
        "block_number": number,
        "block_timestamp": at + 900,
        "sources": 2,
        "used": True,
    }
    if number % 50 == 7:
        yield "x402.payment.unknown", seen | {"delivered": False, "http_status": 502, "transaction": None}
        proof["used"] = False
        yield "x402.payment.released", {"payment_id": payment_id, "proof": proof, "transaction": None}
        return
    receipt = {"key": f"{_TERMS['network']} {transaction}", "kind": "receipt", "value": payment_id}
    claim = {"facts": [receipt], "transaction": transaction}
    yield "x402.payment.settled", seen | claim
    if number % 10 == 3:
        yield "x402.payment.settled", {"payment_id": payment_id, "proof": proof} | claim


def main() -> None:
    parser = argparse.ArgumentParser(prog="grow_ledger", description="Makes a long ledger to measure on.")
    parser.add_argument("file", type=Path)
    parser.add_argument("entries", type=int)
    arguments = parser.parse_args()
    begin = time.monotonic()
    grow(arguments.file, arguments.entries, said=lambda line: print(line, flush=True))
    print(f"{arguments.file}: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
