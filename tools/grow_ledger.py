"""Makes a long ledger of payments that never were, to measure and try things out on.

    python -m tools.grow_ledger FILE ENTRIES

The same numbers give the same entries. They look as keyd writes them: an attempt with its offer, the signed
payment, its outcome; now and then a refusal, a proof from the chain, a new host with its pin.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from ledger import Ledger, Transaction

STEP_S: Final = 5
"""Seconds between two payments: some 17 000 a day, so ten million entries are half a year."""
DOMAINS: Final = 50
CALLERS: Final = 5
_START_S: Final = 1_767_225_600  # 2026-01-01T00:00:00Z
_BATCH: Final = 100  # payments in one step of the writer
_PAYER: Final = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
_SELLER: Final = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
_TERMS: Final = {"asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "network": "eip155:84532"}

type Row = tuple[str, dict[str, Any]]


def grow(path: Path, entries: int, *, said: Callable[[str], None] = lambda _: None) -> None:
    """Appends at least `entries` entries to the ledger at `path`, which is made if there is none."""
    now = [_START_S * 1_000_000]
    with closing(Ledger.open(path, clock=lambda: now[0])) as ledger:
        begin = ledger.head().seq
        waiting: deque[Future[int]] = deque()
        number, head = begin, begin
        while head < begin + entries:
            payments = [payment(n) for n in range(number, number + _BATCH)]
            now[0] = (_START_S + number * STEP_S) * 1_000_000
            number += _BATCH
            waiting.append(ledger.transact(partial(_append, payments)))
            if len(waiting) > 4:
                head = waiting.popleft().result()
                if head // 100_000 != (head - 300) // 100_000:
                    said(f"{head - begin} entries")
        for future in waiting:
            future.result()


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
    yield "x402.payment.settled", seen | {"transaction": transaction}
    if number % 10 == 3:
        yield (
            "x402.payment.settled",
            {"payment_id": payment_id, "proof": proof, "transaction": transaction},
        )


def _append(payments: list[Iterator[Row]], tx: Transaction) -> int:
    for rows in payments:
        for type_, data in rows:
            tx.append(type_, "uid:991", data)
    return tx.head.seq


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
