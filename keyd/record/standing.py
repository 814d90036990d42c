"""Reads from the ledger's projection what the decision has to know about an intent's host, caller and day."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from keyd.core.intent import Intent
from keyd.core.policy import Pin, Policy, Spent, Standing
from keyd.record import facts, payments, sessions
from keyd.record.facts import Kind

RATE_WINDOW_S: Final = 60

_SPENT: Final = "(SELECT SUM(usd_micros) FROM spend WHERE day >= ?1 AND"
_STANDING: Final = (
    "SELECT (SELECT value FROM facts WHERE kind = 'frozen' AND key = ''),"  # noqa: S608 - constants
    " (SELECT value FROM facts WHERE kind = 'pin' AND key = ?2),"
    " (SELECT value FROM facts WHERE kind = 'price' AND key = ?4),"
    " (SELECT value FROM facts WHERE kind = 'trouble' AND key = ?2),"
    " (SELECT SUM(usd_micros) FROM spend_total WHERE day >= ?1),"
    f" {_SPENT} domain = ?2), {_SPENT} caller = ?3), {_SPENT} domain = ?2 AND caller = ?3)"
)
"""One statement: every one costs a hand-over of the interpreter's lock. Days as in `payments.spent_on`."""


def load(db: sqlite3.Connection, intent: Intent, policy: Policy, *, now_s: int, day: str) -> Standing:
    """The standing of `intent` at `now_s` on budget day `day`, inside the transaction that will decide on it."""
    about = (day, intent.domain, intent.caller, facts.price_key(intent.domain, intent.method, intent.path))
    frozen, pin_text, price, trouble, *spent = db.execute(_STANDING, about).fetchone()
    pin = None if pin_text is None else json.loads(pin_text)
    approvals = facts.every(db, Kind.APPROVAL)
    return Standing(
        spent=Spent(*(usd_micros or 0 for usd_micros in spent)),
        last_minute=_last_minute(db, policy, now_s),
        frozen=frozen is not None,
        quarantined=policy.quarantine_after is not None and int(trouble or 0) >= policy.quarantine_after,
        pin=None if pin is None else Pin(pin["network"], pin["asset"], pin["pay_to"]),
        pinned_price=None if price is None else int(price),
        session=sessions.standing(db, intent.session, intent.caller, now_s),
        approved=frozenset(key for key, until in approvals.items() if now_s <= until),
    )


def is_frozen(db: sqlite3.Connection) -> bool:
    return facts.get(db, Kind.FROZEN, "") is not None


def _last_minute(db: sqlite3.Connection, policy: Policy, now_s: int) -> int:
    """Payments in the last minute; counted only where there is a limit, for at 1000 payments/s it costs as much as
    all the rest of a decision."""
    if policy.payments_per_minute is None:
        return 0
    return payments.signed_after(db, now_s - RATE_WINDOW_S)
