"""The second fold, held against the ledger's own tables as it goes.

The tables are read in the order in which entries wrote their rows. So a row is compared when the entry comes that says
it, and forgotten when the last one comes that changes it, which the row names. Nothing is in memory but the sums, and
what a later entry must still change.

Whatever differs ends in `Doubt`, which says nothing more: the careful check puts it into words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import Any, Final

from ledger import schema, states
from ledger.chain import Head
from ledger.projection import Payment
from ledger.states import Event, State

MAX_HELD: Final = 100_000
"""Sums, and payments and facts that a later entry must change, in memory: 70 MB of payments. That is half an hour of 50
payments a second which the chain has not confirmed yet; a ledger in which more wait is checked entry by entry."""
_FETCHED: Final = 32

SIGNED_TEXTS: Final = (
    *("amount", "asset", "authorization", "caller", "day", "domain", "intent_key", "network", "payment_id"),
    "wallet",
)
SIGNED_NUMBERS: Final = ("signed_at", "usd_micros", "valid_before")
SIGNED: Final = (*SIGNED_TEXTS, *SIGNED_NUMBERS, "signed_seq")
"""Columns of `payments` that say what was signed: no other entry changes them."""
STANDING: Final = ("state", "delivered", "proven", "last_seq")
_WIDTH: Final = len(SIGNED)
_CALLER, _DAY, _DOMAIN, _ID, _USD_MICROS, _SEQ = map(
    SIGNED.index, ("caller", "day", "domain", "payment_id", "usd_micros", "signed_seq")
)

_PAYMENTS: Final = f"SELECT {', '.join(SIGNED + STANDING)} FROM ledger.payments ORDER BY rowid"  # noqa: S608
_PAYMENT: Final = schema.SELECT_PAYMENT.replace("FROM payments", "FROM ledger.payments")
_STORIES: Final = "SELECT payment_id, seq FROM ledger.payment_entries ORDER BY seq"
_FACTS: Final = "SELECT kind, key, value, seq FROM ledger.facts ORDER BY seq"
_FACT: Final = "SELECT seq FROM ledger.facts WHERE kind = ? AND key = ?"
_AT_THE_END: Final = (
    "SELECT day, domain, caller, usd_micros, calls FROM {}.spend ORDER BY day, domain, caller",
    "SELECT day, usd_micros, calls FROM {}.spend_total ORDER BY day",
    "SELECT head_seq, head_hash, latest_day FROM {}.meta",
)
"""What is compared when everything is folded, in orders that need no sorting."""

type _Sums = tuple[str, str, str]
"""Key of `spend`: day, domain, caller."""
type _Standing = tuple[str, bool, bool, int]
"""Of a payment, as in `STANDING`."""


class Doubt(Exception):
    """Something is not as it must be, or not as it usually is."""


def _moves() -> Mapping[tuple[str, bool, Event], tuple[str, bool, int]]:
    """`states.TRANSITIONS` with plain strings, which are found faster: what comes after, and what the budget counts more."""
    return {
        (before[0].value, before[1], event): (*_plain(after), states.counts(after) - states.counts(before))
        for before, events in states.TRANSITIONS.items()
        for event, after in events.items()
        if after is not None
    }


def _plain(standing: states.Standing) -> tuple[str, bool]:
    return standing[0].value, standing[1]


_MOVES: Final = _moves()


class Agreement:
    """The projection (`ledger.projection.Tables`), with which the tables of the ledger attached to `db` must agree.

    Raises Doubt as soon as it finds that they do not, at the latest from `finish`. `main` of `db` has the empty tables
    of a projection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._payments = db.execute(_PAYMENTS)
        self._stories = db.execute(_STORIES)
        self._facts = db.execute(_FACTS)
        self._open: dict[str, tuple[_Standing, _Standing, _Sums, int]] = {}
        """Payments that a later entry must change: as they stand, as the ledger has them at last, sums, micro-USD."""
        self._next_fact: Any = self._facts.fetchone()
        self._speaker = 0
        self._unsaid: dict[tuple[str, str], str] = {}
        """Facts that the ledger has from entry `_speaker`, which has not put them yet."""
        self._passing: set[tuple[str, str]] = set()
        """Facts that the ledger has otherwise or not at all: a later entry must change them."""
        self._spend: dict[_Sums, tuple[int, int]] = {}
        self._latest_day: str | None = None

    def sign(self, columns: tuple[Any, ...]) -> None:
        """A payment was signed: its `SIGNED` columns."""
        self._begin(columns)
        day = columns[_DAY]
        self._add((day, columns[_DOMAIN], columns[_CALLER]), columns[_USD_MICROS], 1)
        self.see_day(day)

    def move(self, payment_id: str, event: Event, delivered: bool, seq: int) -> None:
        """Entry `seq` says what became of a payment."""
        if payment_id not in self._open:  # never signed, or changed for the last time before
            raise Doubt
        (state, was_delivered, proven, _), _, sums, usd_micros = self._open[payment_id]
        move = _MOVES.get((state, proven, event))
        if move is None:
            raise Doubt
        state, proven, change = move
        self._continue(payment_id, (state, delivered or was_delivered, proven, seq))
        if change:
            self._add(sums, change * usd_micros, 0)

    def finish(self, head: Head) -> None:
        """Everything is folded: nothing may be left open, or unread."""
        rest = self._open or self._unsaid or self._passing or self._next_fact
        if rest or next(self._payments, None) or next(self._stories, None):
            raise Doubt
        self._store_spend()
        self._db.execute(
            "INSERT INTO main.spend_total SELECT day, sum(usd_micros), sum(calls) FROM main.spend GROUP BY day"
        )
        self._db.execute(
            "UPDATE main.meta SET head_seq = ?, head_hash = ?, latest_day = ?", (*head, self._latest_day)
        )
        for query in _AT_THE_END:
            self._compare(query)

    # -- ledger.projection.Tables, for entries that are folded one by one

    def payment(self, payment_id: str) -> Payment | None:
        """None also for one that is not open any more: no entry can be about it, and `put_payment` finds that out."""
        if payment_id not in self._open:
            return None
        (state, delivered, proven, _), *_ = self._open[payment_id]
        payment = schema.payment_from_row(self._db.execute(_PAYMENT, (payment_id,)).fetchone())
        return payment._replace(state=State(state), delivered=delivered, proven=proven)

    def put_payment(self, payment: Payment) -> None:
        if payment.payment_id in self._open:
            standing = payment.state.value, payment.delivered, payment.proven, payment.last_seq
            self._continue(payment.payment_id, standing)
        else:
            self._begin(tuple(getattr(payment, column) for column in SIGNED))

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        self._add((day, domain, caller), usd_micros, calls)

    def see_day(self, day: str) -> None:
        if self._latest_day is None or day > self._latest_day:
            self._latest_day = day

    def put_fact(self, kind: str, key: str, value: str | None, seq: int) -> None:
        if seq != self._speaker:
            self._listen_to(seq)
        fact = kind, key
        if value is None:
            self._passing.discard(fact)
            if fact not in self._unsaid and self._is_kept(fact, seq):
                raise Doubt
        elif self._unsaid.get(fact) == value:
            del self._unsaid[fact]
            self._passing.discard(fact)
        else:
            self._passing.add(fact)
            _bound(self._passing)

    # --

    def _begin(self, columns: tuple[Any, ...]) -> None:
        """The next row of `payments` is this one. So its id is new, too: it is the key of the table."""
        row = next(self._payments, None)
        if row is None or row[:_WIDTH] != columns:
            raise Doubt
        payment_id, seq = row[_ID], row[_SEQ]
        if next(self._stories, None) != (payment_id, seq):
            raise Doubt
        now, at_last = ("signed", False, False, seq), row[_WIDTH:]
        if now != at_last:
            sums = row[_DAY], row[_DOMAIN], row[_CALLER]
            self._open[payment_id] = now, at_last, sums, row[_USD_MICROS]
            _bound(self._open)

    def _continue(self, payment_id: str, standing: _Standing) -> None:
        """An open payment stands thus from entry `last_seq` on."""
        _, at_last, sums, usd_micros = self._open[payment_id]
        if next(self._stories, None) != (payment_id, standing[-1]):
            raise Doubt
        if standing == at_last:
            del self._open[payment_id]
        else:
            self._open[payment_id] = standing, at_last, sums, usd_micros

    def _listen_to(self, seq: int) -> None:
        """What the ledger has from entry `seq`; from the one before, nothing may be left."""
        if self._unsaid:
            raise Doubt
        self._speaker = seq
        while self._next_fact and self._next_fact[3] == seq:
            kind, key, value, _ = self._next_fact
            self._unsaid[kind, key] = value
            self._next_fact = self._facts.fetchone()

    def _is_kept(self, fact: tuple[str, str], seq: int) -> bool:
        """Whether the ledger has `fact` from an entry up to `seq`."""
        row = self._db.execute(_FACT, fact).fetchone()
        return row is not None and row[0] <= seq

    def _add(self, sums: _Sums, usd_micros: int, calls: int) -> None:
        usd, count = self._spend.get(sums, (0, 0))
        self._spend[sums] = usd + usd_micros, count + calls
        if len(self._spend) > MAX_HELD:
            self._store_spend()

    def _store_spend(self) -> None:
        self._db.executemany(schema.ADD_SPEND, (key + sums for key, sums in self._spend.items()))
        self._spend.clear()

    def _compare(self, query: str) -> None:
        found, folded = (self._db.execute(query.format(side)) for side in ("ledger", "main"))
        rows: list[Any] = [()]
        while rows:
            rows = found.fetchmany(_FETCHED)
            if rows != folded.fetchmany(_FETCHED):
                raise Doubt


def _bound(held: Collection[object]) -> None:
    if len(held) > MAX_HELD:
        raise Doubt
