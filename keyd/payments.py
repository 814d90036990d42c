"""What was signed before and what is spent: reads of the ledger's projection, inside its transaction."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from keyd.eip3009 import Authorization

SETTLE_MARGIN_S: Final = 120
"""After `validBefore` a block with an older timestamp may still be on its way: chains lag, clocks differ.
Until then the intent gets neither the old authorization nor a new one (docs/adr/0004)."""


_SELECT: Final = (
    "SELECT payment_id, state, delivered, wallet, network, asset, amount, usd_micros, authorization, signed_seq"
    " FROM payments "
)
_BY_ID: Final = _SELECT + "WHERE payment_id = ?"
_UNPROVEN: Final = _SELECT + (
    "WHERE state IN ('signed', 'refused', 'unknown') AND signed_seq > ? ORDER BY signed_seq LIMIT ?"
)
_LATEST_OF_INTENT: Final = _SELECT + "WHERE intent_key = ? ORDER BY signed_seq DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Payment:
    """A row of the projection: one authorization and what became of it."""

    payment_id: str
    state: str
    delivered: bool
    wallet: str
    network: str
    asset: str
    amount: int
    usd_micros: int
    authorization: Authorization
    signed_seq: int

    def is_open(self, now_s: int) -> bool:
        """It can still be settled and the application has no answer: a repeat gets the same bytes."""
        return not self.delivered and self.state != "released" and now_s <= self.authorization.valid_before

    def is_unresolved(self, now_s: int) -> bool:
        """It has just expired; whether a late block settled it cannot be known yet."""
        expired = self.authorization.valid_before < now_s <= self.authorization.valid_before + SETTLE_MARGIN_S
        return not self.delivered and self.state != "released" and expired


def latest_of(db: sqlite3.Connection, intent_key: str) -> Payment | None:
    """The newest payment for this intent."""
    return _payment(db.execute(_LATEST_OF_INTENT, (intent_key,)).fetchone())


def by_id(db: sqlite3.Connection, payment_id: str) -> Payment | None:
    return _payment(db.execute(_BY_ID, (payment_id,)).fetchone())


def unproven(db: sqlite3.Connection, after: int, limit: int) -> list[Payment]:
    """Payments signed after entry `after` that were neither proven settled nor released, oldest first."""
    rows = db.execute(_UNPROVEN, (after, limit)).fetchall()
    return [payment for row in rows if (payment := _payment(row)) is not None]


def budget_day(db: sqlite3.Connection, now_us: int) -> str:
    """The UTC day that a payment made now counts on. It never goes backwards: a clock set back un-spends nothing."""
    today = datetime.fromtimestamp(now_us / 1_000_000, UTC).strftime("%Y-%m-%d")
    latest = db.execute("SELECT latest_day FROM meta").fetchone()[0]
    return today if latest is None else max(today, str(latest))


def spent_on(db: sqlite3.Connection, day: str) -> int:
    """Micro-USD signed on `day` and not released with proof."""
    row = db.execute("SELECT usd_micros FROM spend_total WHERE day = ?", (day,)).fetchone()
    return 0 if row is None else int(row[0])


def spent_by_domain(db: sqlite3.Connection, day: str) -> list[tuple[str, int, int]]:
    """(domain, micro-USD, calls) of `day`, the dearest first."""
    return db.execute(
        "SELECT domain, SUM(usd_micros) AS usd, SUM(calls) FROM spend WHERE day = ? GROUP BY domain"
        " ORDER BY usd DESC, domain",
        (day,),
    ).fetchall()


def _payment(row: tuple[Any, ...] | None) -> Payment | None:
    if row is None:
        return None
    payment_id, state, delivered, wallet, network, asset, amount, usd, authorization, seq = row
    fields = Authorization.from_json(json.loads(authorization))
    return Payment(payment_id, state, bool(delivered), wallet, network, asset, int(amount), usd, fields, seq)
