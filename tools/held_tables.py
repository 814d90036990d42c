"""The projection of a long ledger that is being made, in memory."""

from __future__ import annotations

import sqlite3
from itertools import islice
from typing import Final

from ledger import schema
from ledger.chain import Head
from ledger.projection import Payment

MAX_HELD: Final = 50_000
"""Payments in memory, some 80 MB. Older ones go to the database, where an outcome that comes late finds them."""


class HeldTables:
    """The projection (`ledger.projection.Tables`) in memory, as far as it fits, and the rest in `db`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._payments: dict[str, Payment] = {}  # in the order in which they were signed
        self._late: dict[str, Payment] = {}  # stored before, and changed since
        self._stored = False
        self._entries: list[tuple[str, int]] = []
        self._spend: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._totals: dict[str, tuple[int, int]] = {}
        self._facts: dict[tuple[str, str], tuple[str, int] | None] = {}
        self._latest_day: str | None = None
        self.signing = False
        """The entry signs: whether its payment_id was there before is left to the table's key, when it is stored."""
        db.execute("CREATE TEMP TABLE held_entries (payment_id TEXT, seq INTEGER)")

    def payment(self, payment_id: str) -> Payment | None:
        held = self._payments.get(payment_id) or self._late.get(payment_id)
        if held is not None or self.signing or not self._stored:
            return held
        row = self._db.execute(schema.SELECT_PAYMENT, (payment_id,)).fetchone()
        return None if row is None else schema.payment_from_row(row)

    def put_payment(self, payment: Payment) -> None:
        held = self._payments if self.signing or payment.payment_id in self._payments else self._late
        held[payment.payment_id] = payment
        self._entries.append((payment.payment_id, payment.last_seq))
        if len(self._payments) > MAX_HELD:
            self._store_payments(MAX_HELD // 2)

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        usd, count = self._spend.get((day, domain, caller), (0, 0))
        self._spend[day, domain, caller] = usd + usd_micros, count + calls
        usd, count = self._totals.get(day, (0, 0))
        self._totals[day] = usd + usd_micros, count + calls
        if len(self._spend) > MAX_HELD:
            self._store_spend()

    def put_fact(self, kind: str, key: str, value: str | None, seq: int) -> None:
        self._facts[kind, key] = None if value is None else (value, seq)
        if len(self._facts) > MAX_HELD:
            self._store_facts()

    def see_day(self, day: str) -> None:
        if self._latest_day is None or day > self._latest_day:
            self._latest_day = day

    def store(self, head: Head) -> None:
        """Everything into `db`. Raises sqlite3.IntegrityError if a payment_id was signed twice."""
        self._store_payments(len(self._payments))
        self._store_spend()
        self._store_facts()
        # Sorted first: rows in the order of the key are appended, others cost a search of the tree each.
        ordered = "SELECT payment_id, seq FROM held_entries ORDER BY payment_id, seq"
        self._db.execute(f"INSERT INTO main.payment_entries {ordered}")
        self._db.execute(
            "UPDATE main.meta SET head_seq = ?, head_hash = ?, latest_day = ?", (*head, self._latest_day)
        )

    def _store_payments(self, count: int) -> None:
        oldest = list(islice(self._payments.values(), count))
        self._db.executemany(schema.INSERT_PAYMENT, oldest)
        for payment in oldest:
            del self._payments[payment.payment_id]
        self._db.executemany(schema.PUT_PAYMENT, self._late.values())
        self._late.clear()
        self._db.executemany("INSERT INTO held_entries VALUES (?, ?)", self._entries)
        self._entries.clear()
        self._stored = True

    def _store_spend(self) -> None:
        self._db.executemany(schema.ADD_SPEND, (key + sums for key, sums in self._spend.items()))
        self._db.executemany(schema.ADD_SPEND_TOTAL, ((day, *sums) for day, sums in self._totals.items()))
        self._spend.clear()
        self._totals.clear()

    def _store_facts(self) -> None:
        gone = [key for key, said in self._facts.items() if said is None]
        self._db.executemany(schema.REMOVE_FACT, gone)
        self._db.executemany(
            schema.PUT_FACT, ((*key, *said) for key, said in self._facts.items() if said is not None)
        )
        self._facts.clear()
