"""What the tests of the ledger share: a clock that is told the time, entries of payments, an open ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger

START = 1_795_226_434_123_456  # 2026-11-21T02:00:34.123456Z

SignedData = Callable[..., dict[str, Any]]


class Clock:
    """Goes on by one microsecond each time it is read."""

    def __init__(self) -> None:
        self.micros = START

    def __call__(self) -> int:
        self.micros += 1
        return self.micros - 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    with closing(Ledger.open(path, clock=clock)) as opened:
        yield opened


@pytest.fixture(scope="session")
def signed_data() -> SignedData:
    return _signed_data


def _signed_data(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Data of an `x402.payment.signed` entry; `number` makes its payment_id."""
    return {
        "payment_id": f"{number:032x}",
        "intent_key": hashlib.sha256(b"intent %d" % number).hexdigest(),
        "domain": "api.example.com",
        "caller": "uid:1000",
        "wallet": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
        "network": "eip155:84532",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "amount": "1000",
        "usd_micros": 1000,
        "authorization": {
            "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
            "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "value": "1000",
            "validAfter": "0",
            "validBefore": "1795226494",
            "nonce": "0x" + hashlib.sha256(b"nonce %d" % number).hexdigest(),
        },
        "signed_at": 1795226434,
        "valid_before": 1795226494,
        "day": "2026-11-21",
        "note": "not folded",
    } | changes
