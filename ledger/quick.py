"""The whole check of a ledger in bulk: yes, or "look closer".

Everything that `ledger.verify` looks at, in batches, with the second fold in memory as far as it fits. It says nothing
about what is wrong or where: at the first thing that is not as it must be it gives up, and the careful check puts it
into words. So a sound ledger, the usual one, is checked several times faster.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from ledger import canonical, entry, projection, schema, store
from ledger.chain import DOMAIN, GENESIS, Head
from ledger.errors import EntryRefused
from ledger.projection import Payment

type Progress = Callable[[int], None]
"""Told how many entries have been checked."""

BATCH: Final = 32
"""Entries fetched, parsed and compared at once: what stays in the processor's cache. With 500 it takes a third longer."""
MAX_HELD: Final = 50_000
"""Payments of the second fold in memory, some 80 MB. Older ones go to the temporary database, where an outcome that
comes late finds them."""

_FOLDED: Final = frozenset({projection.SIGNED, *projection.OUTCOMES})


class _Doubt(Exception):
    """Something is not as it must be, or not as it usually is."""


def is_sound(db: sqlite3.Connection, progress: Progress) -> Head | None:
    """The head of the ledger attached to `db` as `ledger`, if chain, head and projection are as they must be.

    None says nothing yet. `main` is a temporary database with the empty tables of the projection; it is left full.
    """
    db.text_factory = str  # raises on what is not UTF-8
    try:
        tables = HeldTables(db)
        head = _check_chain(db, tables, progress)
        tables.store(head)
        return head if all(_same(db, *table) for table in _COMPARED) else None
    except (_Doubt, EntryRefused, ValueError, ArithmeticError, RecursionError, sqlite3.Error):
        return None


def _check_chain(db: sqlite3.Connection, tables: HeldTables, progress: Progress) -> Head:
    """The last entry's place and hash; every entry is linked, canonical, in its place, and folded."""
    rows = db.execute(f"{store.SELECT_ROWS} FROM ledger.entries ORDER BY seq")
    seq, prev_hash = 0, GENESIS
    while batch := rows.fetchmany(BATCH):
        for number, encoded, hash_ in batch:
            seq += 1
            if number != seq or hashlib.sha256(DOMAIN + prev_hash + encoded).digest() != hash_:
                raise _Doubt
            prev_hash = hash_
        _fold(batch, tables)
        progress(seq)
    return Head(seq, prev_hash)


def _fold(batch: list[tuple[int, bytes, bytes]], tables: HeldTables) -> None:
    """Fold `batch` into `tables`, if it is canonical entries with the numbers of their rows.

    Plain ones are parsed one by one and written again all together: no JSON object is the beginning of another, so
    if the whole is as it was read, each of them is.
    """
    texts, parsed = [], []
    for number, encoded, hash_ in batch:
        if canonical.is_plain(encoded):
            text = encoded.decode()
            members = canonical.parse(text)
            texts.append(text)
            parsed.append(members)
        else:
            members = canonical.decode(encoded)
        read = entry.from_members(members, hash_)
        if read.seq != number:
            raise _Doubt
        if read.type in _FOLDED or "facts" in read.data:
            tables.signing = read.type == projection.SIGNED
            projection.fold(read, tables)
    if canonical.encode_plain(parsed) != f"[{','.join(texts)}]":
        raise _Doubt


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


_COMPARED: Final = (
    ("meta", "head_seq, head_hash, latest_day", "id"),
    ("spend_total", "day, usd_micros, calls", "day"),
    ("spend", "day, domain, caller, usd_micros, calls", "day, domain, caller"),
    ("facts", "kind, key, value, seq", "kind, key"),
    ("payment_entries", "payment_id, seq", "payment_id, seq"),
    ("payments", ", ".join(schema.PAYMENT_COLUMNS), "rowid"),  # both in the order of signing
)
"""Table, columns, order in which both sides can be read without sorting."""


def _same(db: sqlite3.Connection, table: str, columns: str, order: str) -> bool:
    found, folded = (
        db.execute(f"SELECT {columns} FROM {side}.{table} ORDER BY {order}")  # noqa: S608 - constants
        for side in ("ledger", "main")
    )
    rows: list[Any] = [()]
    while rows:
        rows = found.fetchmany(BATCH)
        if rows != folded.fetchmany(BATCH):
            return False
    return True
