"""What waits for a person: payments that policy holds, and changes that an agent may only propose.

Times in Unix seconds. Nothing here reserves budget: a held payment costs nothing until it is signed.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from keyd import api
from keyd.core.intent import Intent
from keyd.core.offers import Offer
from keyd.core.policy import Deny, approval_id
from keyd.record import facts
from keyd.record.facts import Fact, Kind

PENDING_S: Final = 24 * 3600
"""A question nobody answered in a day has lost its context."""
APPROVAL_S: Final = 3600
"""An approval is for the program's next try, not for some day."""
MAX_WORDS: Final = 2000
"""Characters of a proposal. A change that takes more words than a person reads is to be split."""
MAX_PENDING_OF_HOST: Final = 10
"""For one caller: a seller that changes its terms all the time must not fill the list."""
MAX_PENDING_OF_CALLER: Final = 50
"""Hostile pages can make an agent ask again and again; that must not keep others from asking."""
MAX_PENDING: Final = 200
"""Of all callers: a person reads no more than this anyway."""


def held_payment(
    db: sqlite3.Connection, intent: Intent, denial: Deny, offer: Offer, now_s: int
) -> tuple[str | None, list[Fact]]:
    """The id under which a person may approve `offer`, and the facts to record: none if it is waiting already.

    No id if too much is waiting already: of this caller, of it at this host, or of all.
    """
    key = approval_id(intent, offer)
    pending = facts.every(db, Kind.PENDING)
    known = pending.get(key)
    if known is not None and now_s <= known["expires_at"]:
        return key, []
    at_host = [v for v in _asked_by(intent.caller, "payment", pending, now_s) if v["domain"] == intent.domain]
    if len(at_host) >= MAX_PENDING_OF_HOST or full(db, "payment", intent.caller, now_s):
        return None, []
    value = _entry("payment", denial.detail, intent.caller, now_s)
    value |= {"code": denial.reason.value, "domain": intent.domain}
    changes = [change for change in expired(db, now_s) if change["key"] != key]
    return key, [*changes, facts.put(Kind.PENDING, key, value)]


def proposed_change(
    proposal_id: str, patch: api.PolicyPatch, words: list[str], by: str, now_s: int
) -> tuple[api.Proposal, Fact]:
    """A change that an agent asks for, in words that say all of it."""
    value = _entry("policy", "; ".join(words), by, now_s)
    value |= {"patch": patch.model_dump(mode="json", exclude_defaults=True), "words": words}
    return view(proposal_id, value), facts.put(Kind.PENDING, proposal_id, value)


def find(db: sqlite3.Connection, proposal_id: str, now_s: int) -> dict[str, Any] | None:
    """What waits under this id; None if nothing does, or not any more."""
    value: dict[str, Any] | None = facts.get(db, Kind.PENDING, proposal_id)
    return None if value is None or now_s > value["expires_at"] else value


def full(db: sqlite3.Connection, kind: str, by: str, now_s: int) -> bool:
    """No more of this kind are taken from `by`. Each kind by itself: an agent's proposals must not hide held payments."""
    pending = facts.every(db, Kind.PENDING)
    return (
        len(_asked_by(by, kind, pending, now_s)) >= MAX_PENDING_OF_CALLER
        or len(_asked_by(None, kind, pending, now_s)) >= MAX_PENDING
    )


def _asked_by(
    by: str | None, kind: str, pending: dict[str, dict[str, Any]], now_s: int
) -> list[dict[str, Any]]:
    """What of this kind waits still; of one caller or agent, or of all."""
    current = (value for value in pending.values() if now_s <= value["expires_at"])
    return [value for value in current if value["kind"] == kind and by in (None, value["by"])]


def waiting(db: sqlite3.Connection, now_s: int) -> list[api.Proposal]:
    """Everything that waits, the oldest first."""
    found = [view(key, value) for key, value in facts.every(db, Kind.PENDING).items()]
    return sorted((p for p in found if now_s <= p.expires_at), key=lambda p: (p.created_at, p.id))


def expired(db: sqlite3.Connection, now_s: int) -> list[Fact]:
    """Facts that clear away what nobody answered and approvals that nobody used."""
    pending, approvals = facts.every(db, Kind.PENDING), facts.every(db, Kind.APPROVAL)
    return [
        *(facts.put(Kind.PENDING, key, None) for key, v in pending.items() if now_s > v["expires_at"]),
        *(facts.put(Kind.APPROVAL, key, None) for key, until in approvals.items() if now_s > until),
    ]


def view(proposal_id: str, value: dict[str, Any]) -> api.Proposal:
    return api.Proposal.model_validate(
        {"id": proposal_id} | {name: v for name, v in value.items() if name in api.Proposal.model_fields}
    )


def _entry(kind: str, summary: str, by: str, now_s: int) -> dict[str, Any]:
    expires_at = now_s + PENDING_S
    return {"by": by, "created_at": now_s, "expires_at": expires_at, "kind": kind, "summary": summary}
