"""The whole check of a ledger in bulk: yes, or "look closer".

Everything that `ledger.verify` looks at, in one pass. Entries of a form that was met before (`ledger.forms`) are not
even parsed; the others are checked and folded one by one, as the careful check does it. It says nothing about what is
wrong or where: at the first thing that is not as it must be it gives up, and the careful check puts it into words. So
a sound ledger, the usual one, is checked several times faster.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from typing import Final

from ledger import entry, projection, store
from ledger.agreement import Agreement, Doubt
from ledger.chain import DOMAIN, GENESIS, Head
from ledger.errors import EntryRefused
from ledger.readings import Readings

type Progress = Callable[[int], None]
"""Told how many entries have been checked."""

BATCH: Final = 32
"""Entries fetched at once: what stays in the processor's cache. With 500 it takes a third longer."""


def is_sound(db: sqlite3.Connection, progress: Progress) -> Head | None:
    """The head of the ledger attached to `db` as `ledger`, if chain, head and projection are as they must be.

    None says nothing yet. `main` is a temporary database with the empty tables of the projection.
    """
    db.text_factory = str  # raises on what is not UTF-8
    try:
        tables = Agreement(db)
        head = _check_chain(db, tables, progress)
        tables.finish(head)
    except (Doubt, EntryRefused, ValueError, ArithmeticError, RecursionError, sqlite3.Error):
        return None
    return head


def _check_chain(db: sqlite3.Connection, tables: Agreement, progress: Progress) -> Head:
    """The last entry's place and hash; every entry is linked, canonical, in its place, and folded."""
    rows = db.execute(f"{store.SELECT_ROWS} FROM ledger.entries ORDER BY seq")
    readings = Readings()
    seq, prev_hash = 0, GENESIS
    while batch := rows.fetchmany(BATCH):
        for number, encoded, hash_ in batch:
            seq += 1
            if number != seq or hashlib.sha256(DOMAIN + prev_hash + encoded).digest() != hash_:
                raise Doubt
            prev_hash = hash_
            if not readings.fold(encoded.decode(), seq, tables):
                _fold_carefully(encoded, hash_, seq, tables, readings)
        progress(seq)
    return Head(seq, prev_hash)


def _fold_carefully(encoded: bytes, hash_: bytes, seq: int, tables: Agreement, readings: Readings) -> None:
    """An entry of a form that was not met before: from now on it is known."""
    read = entry.decode(encoded, hash_)
    if read.seq != seq:
        raise Doubt
    projection.fold(read, tables)
    readings.learn(encoded.decode(), read)
