"""What was signed before and what is spent: reads of the ledger's projection, inside its transaction."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from keyd.api import SpendBy
from keyd.core.eip3009 import Authorization
from ledger import entry
from ledger.entry import Entry

SETTLE_MARGIN_S: Final = 120
"""After `validBefore` a block with an older timestamp may still be on its way: chains lag, clocks differ.
Until then the intent gets neither the old authorization nor a new one (docs/adr/0004)."""
LATE_LOOK_S: Final = 86_400
"""After `validBefore`: a released payment is asked about again from then on, for as long."""
COOL_DOWN_S: Final = 10
"""After a server refused a payment, its own retry loop must not be answered with the same header at once."""

REFUSALS_SEARCHED: Final = 2_000
"""Newest entries among which refusals are looked for: there is no index of them, and old ones explain nothing."""

_SELECT: Final = (
    "SELECT payment_id, state, delivered, proven, domain, caller, wallet, network, asset, amount, usd_micros,"
    " authorization, signed_at, day, signed_seq, last_seq FROM payments "
)
_BY_ID: Final = _SELECT + "WHERE payment_id = ?"
_LATEST_OF_INTENT: Final = _SELECT + "WHERE intent_key = ? ORDER BY signed_seq DESC LIMIT 1"
_UNPROVEN: Final = _SELECT + "WHERE proven = 0 AND signed_seq > ? ORDER BY signed_seq LIMIT ?"
_RELEASED: Final = _SELECT + (
    "WHERE state = 'released' AND valid_before BETWEEN ? AND ? AND signed_seq > ? ORDER BY signed_seq LIMIT ?"
)
_NEWEST: Final = _SELECT + (
    # Rows are inserted in the order of signing; by signed_seq SQLite would sort every payment of the ledger.
    "WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR domain = ?2) ORDER BY rowid DESC LIMIT ?3"
)
_SPEND_BY: Final = {
    SpendBy.DOMAIN: "SELECT domain, SUM(usd_micros) AS usd, SUM(calls) FROM spend WHERE day BETWEEN ? AND ?"
    " GROUP BY domain ORDER BY usd DESC, domain",
    SpendBy.CALLER: "SELECT caller, SUM(usd_micros) AS usd, SUM(calls) FROM spend WHERE day BETWEEN ? AND ?"
    " GROUP BY caller ORDER BY usd DESC, caller",
    SpendBy.DAY: "SELECT day, usd_micros, calls FROM spend_total WHERE day BETWEEN ? AND ? ORDER BY day",
    SpendBy.ASSET: "SELECT network || ' ' || asset, SUM(iif(state = 'released', 0, usd_micros)) AS usd, COUNT(*)"
    " FROM payments WHERE day BETWEEN ? AND ? GROUP BY network, asset ORDER BY usd DESC",
    # A fact of the kind session_payment has the key SESSION/PAYMENT; an id of a session has 16 digits.
    SpendBy.SESSION: "SELECT session, SUM(usd_micros) AS usd, COUNT(*) FROM ("
    "SELECT json_extract(f.value, '$') || '/' || substr(f.key, 1, 16) AS session,"
    " iif(p.state = 'released', 0, p.usd_micros) AS usd_micros"
    " FROM facts f JOIN payments p ON p.payment_id = substr(f.key, 18)"
    " WHERE f.kind = 'session_payment' AND p.day BETWEEN ?1 AND ?2"
    " UNION ALL SELECT '-', iif(state = 'released', 0, usd_micros) FROM payments WHERE day BETWEEN ?1 AND ?2"
    " AND payment_id NOT IN (SELECT substr(key, 18) FROM facts WHERE kind = 'session_payment')"
    ") GROUP BY session ORDER BY usd DESC, session",
    SpendBy.WALLET: "SELECT wallet, SUM(iif(state = 'released', 0, usd_micros)) AS usd, COUNT(*)"
    " FROM payments WHERE day BETWEEN ? AND ? GROUP BY wallet ORDER BY usd DESC, wallet",
}
_REFUSED: Final = (
    "SELECT CAST(entry AS BLOB), hash FROM entries WHERE seq > (SELECT head_seq FROM meta) - ?"
    " AND json_extract(entry, '$.type') = 'x402.payment.rejected' ORDER BY seq DESC LIMIT ?"
)
_OF_WALLET: Final = (
    "SELECT COUNT(*), COUNT(*) FILTER (WHERE proven = 0), SUM(iif(state = 'released', 0, usd_micros)),"
    " SUM(iif(state = 'released' OR day < ?2, 0, usd_micros)) FROM payments WHERE wallet = ?1"
)
_FOREVER: Final = "9999-12-31"


@dataclass(frozen=True, slots=True)
class Payment:
    """A row of the projection: one authorization and what became of it."""

    payment_id: str
    state: str
    delivered: bool
    proven: bool
    domain: str
    caller: str
    wallet: str
    network: str
    asset: str
    amount: int
    usd_micros: int
    authorization: Authorization
    signed_at: int
    day: str
    signed_seq: int
    last_seq: int

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


def cools_down(db: sqlite3.Connection, payment: Payment, now_s: int) -> bool:
    """The server refused it less than COOL_DOWN_S ago."""
    if payment.state != "refused":
        return False
    encoded = db.execute("SELECT entry FROM entries WHERE seq = ?", (payment.last_seq,)).fetchone()[0]
    refused_at = datetime.fromisoformat(json.loads(encoded)["ts"]).timestamp()
    return now_s < refused_at + COOL_DOWN_S


def overlaps(db: sqlite3.Connection, payment: Payment, started_us: int | None, now_s: int) -> bool:
    """The application had not got the answer to `payment` yet when it sent this same request: a parallel repeat."""
    if started_us is None or not payment.delivered or now_s > payment.authorization.valid_before:
        return False
    delivered = next(e for e in _entries(db, payment) if e.data.get("delivered") is True)
    reported_us = int(datetime.fromisoformat(delivered.ts).timestamp() * 1_000_000)
    # The report comes later than the answer: a program that asks again at once is faster than it.
    answered_us: int = delivered.data.get("answered_at", reported_us)
    return started_us < min(answered_us, reported_us)


def to_ask_about(db: sqlite3.Connection, after: int, now_s: int, limit: int) -> list[Payment]:
    """Payments signed after entry `after` whose end the chain has not confirmed, oldest first.

    And those released a day ago, once more: the budget that they gave back rests on servers that may have lied.
    """
    day = (now_s - 2 * LATE_LOOK_S, now_s - LATE_LOOK_S)
    rows = db.execute(_UNPROVEN, (after, limit)).fetchall()
    rows += db.execute(_RELEASED, (*day, after, limit)).fetchall()
    return sorted(_payments(rows), key=attrgetter("signed_seq"))[:limit]


def newest(db: sqlite3.Connection, *, state: str | None, domain: str | None, limit: int) -> list[Payment]:
    """The newest payments first; None: of every state, of every domain."""
    return _payments(db.execute(_NEWEST, (state, domain, limit)).fetchall())


def entries_about(db: sqlite3.Connection, payment: Payment) -> list[Entry]:
    """The attempt that led to it, and every entry since, in order."""
    story = _entries(db, payment)
    attempt = db.execute(
        "SELECT CAST(entry AS BLOB), hash FROM entries WHERE seq = ?", (story[0].data["attempt"],)
    ).fetchone()
    return [entry.decode(*attempt), *story]


def refused(db: sqlite3.Connection, limit: int) -> list[Entry]:
    """The newest `x402.payment.rejected`, newest first, among the newest entries."""
    return [
        entry.decode(encoded, hash_) for encoded, hash_ in db.execute(_REFUSED, (REFUSALS_SEARCHED, limit))
    ]


def signed_after(db: sqlite3.Connection, moment_s: int) -> int:
    """Payments signed later than `moment_s`. Those of the future, too: they are there if the clock was set back, which
    must not make room for more."""
    return int(db.execute("SELECT COUNT(*) FROM payments WHERE signed_at > ?", (moment_s,)).fetchone()[0])


def budget_day(now_us: int) -> str:
    """The UTC day that a payment made now counts on, YYYY-MM-DD."""
    return datetime.fromtimestamp(now_us / 1_000_000, UTC).strftime("%Y-%m-%d")


def spent_on(
    db: sqlite3.Connection, day: str, *, domain: str | None = None, caller: str | None = None
) -> int:
    """Micro-USD signed on `day` or later and not released with proof; at one domain, by one caller, or both.

    Later days exist only if the clock was set back: so that un-spends nothing, and a clock that once ran ahead does
    not use up today's budget for good.
    """
    if domain is None and caller is None:
        query, values = "SELECT SUM(usd_micros) FROM spend_total WHERE day >= ?", (day,)
    elif caller is None:
        query = "SELECT SUM(usd_micros) FROM spend WHERE day >= ? AND domain = ?"
        values = (day, domain)  # type: ignore[assignment]
    elif domain is None:
        query = "SELECT SUM(usd_micros) FROM spend WHERE day >= ? AND caller = ?"
        values = (day, caller)  # type: ignore[assignment]
    else:
        query = "SELECT SUM(usd_micros) FROM spend WHERE day >= ? AND domain = ? AND caller = ?"
        values = (day, domain, caller)  # type: ignore[assignment]
    return int(db.execute(query, values).fetchone()[0] or 0)


def spend_by(
    db: sqlite3.Connection,
    by: SpendBy,
    since: str,
    until: str = _FOREVER,
) -> list[tuple[str, int, int]]:
    """(key, micro-USD, calls) over the days `since` to `until`. An asset's key is "network address"."""
    return db.execute(_SPEND_BY[by], (since, until)).fetchall()


@dataclass(frozen=True, slots=True)
class WalletSpend:
    """What one wallet signed. Amounts in micro-USD, without what was released."""

    payments: int
    unproven: int
    total: int
    today: int


def of_wallet(db: sqlite3.Connection, label: str, day: str = _FOREVER) -> WalletSpend:
    """Reads every payment of the ledger: not for the path of a payment."""
    payments, unproven, total, today = db.execute(_OF_WALLET, (label, day)).fetchone()
    return WalletSpend(payments, unproven, total or 0, today or 0)


def _entries(db: sqlite3.Connection, payment: Payment) -> list[Entry]:
    rows = db.execute(
        "SELECT CAST(e.entry AS BLOB), e.hash FROM payment_entries p JOIN entries e ON e.seq = p.seq"
        " WHERE p.payment_id = ? ORDER BY p.seq",
        (payment.payment_id,),
    )
    return [entry.decode(encoded, hash_) for encoded, hash_ in rows]


def _payments(rows: list[tuple[Any, ...]]) -> list[Payment]:
    return [payment for row in rows if (payment := _payment(row)) is not None]


def _payment(row: tuple[Any, ...] | None) -> Payment | None:
    if row is None:
        return None
    payment_id, state, delivered, proven, domain, caller, wallet, network, asset, amount, usd, *rest = row
    authorization, signed_at, day, signed_seq, last_seq = rest
    return Payment(
        payment_id=payment_id,
        state=state,
        delivered=bool(delivered),
        proven=bool(proven),
        domain=domain,
        caller=caller,
        wallet=wallet,
        network=network,
        asset=asset,
        amount=int(amount),
        usd_micros=usd,
        authorization=Authorization.from_json(json.loads(authorization)),
        signed_at=signed_at,
        day=day,
        signed_seq=signed_seq,
        last_seq=last_seq,
    )
