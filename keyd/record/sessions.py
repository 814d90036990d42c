"""Sessions: a label and a budget for one task, nested in the budgets of its user, its host and the day.

A program shows that it runs in one by a token, which whoever opened the session put into its environment. keyd makes
the token, tells it once and keeps its SHA-256. What a session has spent is a sum over its payments, as the ledger's
projection has them: there is no counter that could differ from the record. Money in micro-USD, times in Unix seconds.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from keyd import api
from keyd.core.money import format_usd, parse_usd
from keyd.core.policy import Deny, SessionStanding
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts
from keyd.record.facts import Fact, Kind
from keyd.record.floods import Flood
from ledger.log import Ledger
from ledger.transaction import Transaction

TOKEN_BYTES: Final = 32
ID_LENGTH: Final = 16
"""Hex digits of an id: no two of a ledger's sessions ever have the same."""
MAX_OPEN_OF_CALLER: Final = 50
"""A user that runs more tasks at once forgot to close them; each is a row that every opening looks at."""
OPENINGS_PER_MINUTE: Final = 30
"""Each is an entry, and a loop must not fill the ledger."""

_SPENT: Final = (
    "SELECT coalesce(SUM(iif(p.state = 'released', 0, p.usd_micros)), 0), COUNT(*)"
    " FROM facts f JOIN payments p ON p.payment_id = substr(f.key, ?1 + 2)"
    " WHERE f.kind = ?2 AND f.key > ?3 || '/' AND f.key < ?3 || '0'"  # '0' follows '/' in ASCII
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its fact has it."""

    id: str
    label: str
    caller: str
    budget: int
    expires_at: int

    def as_json(self) -> dict[str, Any]:
        return {
            "budget_usd_micros": self.budget,
            "caller": self.caller,
            "expires_at": self.expires_at,
            "id": self.id,
            "label": self.label,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Session:
        return cls(
            id=value["id"],
            label=value["label"],
            caller=value["caller"],
            budget=value["budget_usd_micros"],
            expires_at=value["expires_at"],
        )


def standing(db: sqlite3.Connection, digest: str | None, caller: str, now_s: int) -> SessionStanding | None:
    """What the decision has to know about the session whose token has this SHA-256.

    None if there is none that `caller` may use now: it never was, it was closed, it expired, it is another user's.
    """
    value = None if digest is None else facts.get(db, Kind.SESSION, digest)
    if value is None:
        return None
    session = Session.from_json(value)
    if session.caller != caller or now_s >= session.expires_at:
        return None
    spent, payments = _spent(db, session.id)
    return SessionStanding(session.id, session.label, session.budget, spent, payments)


def payment_fact(session: SessionStanding, payment_id: str) -> Fact:
    """Makes a payment one of the session's. Recorded with the payment, and never removed."""
    return facts.put(Kind.SESSION_PAYMENT, f"{session.id}/{payment_id}", session.label)


def _spent(db: sqlite3.Connection, session_id: str) -> tuple[int, int]:
    """Micro-USD of its payments that were not released with proof, and how many payments it made."""
    row = db.execute(_SPENT, (ID_LENGTH, Kind.SESSION_PAYMENT.value, session_id)).fetchone()
    return int(row[0]), int(row[1])


class Sessions:
    """Opens, lists and closes. Methods raise LedgerError if that cannot be recorded."""

    def __init__(self, ledger: Ledger, entropy: Callable[[int], bytes]) -> None:
        self._ledger = ledger
        self._entropy = entropy
        self._openings = Flood(OPENINGS_PER_MINUTE)

    async def open(self, peer: Peer, request: api.SessionOpen) -> api.SessionOpened | Deny:
        """A session of the peer's user. Its record is on the disk before the token is told."""
        token = base64.urlsafe_b64encode(self._entropy(TOKEN_BYTES)).rstrip(b"=").decode()
        digest = hashlib.sha256(token.encode()).hexdigest()
        opened = await self._transact(lambda tx: self._open(tx, peer, request, digest))
        return opened if isinstance(opened, Deny) else api.SessionOpened(session=opened, token=token)

    def _open(self, tx: Transaction, peer: Peer, request: api.SessionOpen, digest: str) -> api.Session | Deny:
        now_s = tx.now // 1_000_000
        if self._openings.note(str(peer), tx.now) is None:
            return Deny(Reason.RATE_LIMIT, f"more than {OPENINGS_PER_MINUTE} sessions in a minute")
        known = _every(tx.db)
        if sum(s.caller == str(peer) and now_s < s.expires_at for s in known.values()) >= MAX_OPEN_OF_CALLER:
            detail = f"{MAX_OPEN_OF_CALLER} sessions of {peer} are open already"
            return Deny(Reason.POLICY_LIMIT, detail)
        session = Session(
            id=digest[:ID_LENGTH],
            label=request.label,
            caller=str(peer),
            budget=parse_usd(request.budget_usd),
            expires_at=now_s + request.expires_in,
        )
        over = [key for key, other in known.items() if now_s >= other.expires_at]
        changes = [facts.put(Kind.SESSION, key, None) for key in over]
        changes.append(facts.put(Kind.SESSION, digest, session.as_json()))
        tx.append("x402.session.opened", str(peer), {"facts": changes, "session": session.as_json()})
        return _view(tx.db, session)

    async def close(self, peer: Peer, session_id: str, *, of_anybody: bool) -> api.Session | Deny:
        """Ends a session: from the next decision on its token is worth nothing."""
        return await self._transact(lambda tx: self._close(tx, peer, session_id, of_anybody))

    def _close(self, tx: Transaction, peer: Peer, session_id: str, of_anybody: bool) -> api.Session | Deny:
        for digest, session in _every(tx.db).items():
            if session.id == session_id and (of_anybody or session.caller == str(peer)):
                change = facts.put(Kind.SESSION, digest, None)
                spent, payments = _spent(tx.db, session.id)
                data = {"payments": payments, "session": session.as_json(), "spent_usd_micros": spent}
                tx.append("x402.session.closed", str(peer), data | {"facts": [change]})
                return _view(tx.db, session)
        return Deny(Reason.SESSION_UNKNOWN, f"no session {session_id[:ID_LENGTH]!a} is open")

    def list(self, peer: Peer, now_s: int, *, of_anybody: bool) -> api.SessionList:
        """Those that are open."""

        def read(db: sqlite3.Connection) -> api.SessionList:
            found = [s for s in _every(db).values() if now_s < s.expires_at]
            mine = [s for s in found if of_anybody or s.caller == str(peer)]
            return api.SessionList(sessions=[_view(db, s) for s in sorted(mine, key=lambda s: s.expires_at)])

        return self._ledger.read(read)

    async def _transact[T](self, step: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._ledger.transact(step))


def _every(db: sqlite3.Connection) -> dict[str, Session]:
    """SHA-256 of the token → session, open or expired."""
    return {key: Session.from_json(value) for key, value in facts.every(db, Kind.SESSION).items()}


def _view(db: sqlite3.Connection, session: Session) -> api.Session:
    return api.Session(
        id=session.id,
        label=session.label,
        caller=session.caller,
        budget=format_usd(session.budget),
        spent=format_usd(_spent(db, session.id)[0]),
        expires_at=session.expires_at,
    )
