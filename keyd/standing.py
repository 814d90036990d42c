"""Reads from the ledger's projection what the decision has to know about an intent's host, caller and day."""

from __future__ import annotations

import sqlite3
from typing import Final

from keyd import facts, payments, sessions
from keyd.core.intent import Intent
from keyd.core.policy import Pin, Policy, Spent, Standing
from keyd.facts import Kind

RATE_WINDOW_S: Final = 60


def load(db: sqlite3.Connection, intent: Intent, policy: Policy, *, now_s: int, day: str) -> Standing:
    """The standing of `intent` at `now_s` on budget day `day`, inside the transaction that will decide on it."""
    pin = facts.get(db, Kind.PIN, intent.domain)
    trouble = facts.get(db, Kind.TROUBLE, intent.domain) or 0
    approvals = facts.every(db, Kind.APPROVAL)
    return Standing(
        spent=_spent(db, intent, day),
        last_minute=_last_minute(db, policy, now_s),
        frozen=is_frozen(db),
        quarantined=policy.quarantine_after is not None and trouble >= policy.quarantine_after,
        pin=None if pin is None else Pin(pin["network"], pin["asset"], pin["pay_to"]),
        pinned_price=_pinned_price(db, intent),
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
    return payments.signed_between(db, now_s - RATE_WINDOW_S, now_s)


def _spent(db: sqlite3.Connection, intent: Intent, day: str) -> Spent:
    return Spent(
        total=payments.spent_on(db, day),
        domain=payments.spent_on(db, day, domain=intent.domain),
        caller=payments.spent_on(db, day, caller=intent.caller),
        caller_and_domain=payments.spent_on(db, day, domain=intent.domain, caller=intent.caller),
    )


def _pinned_price(db: sqlite3.Connection, intent: Intent) -> int | None:
    if not intent.path:  # osmoda's flat form names no request, so there is nothing to pin a price to
        return None
    price: int | None = facts.get(db, Kind.PRICE, facts.price_key(intent.domain, intent.method, intent.path))
    return price
