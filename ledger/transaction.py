"""A step's view of the ledger: read the projection, append entries, all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ledger import chain, entry, projection
from ledger.chain import Head
from ledger.entry import Entry
from ledger.errors import LedgerUnavailable
from ledger.schema import SqlTables


class Transaction:
    """Handed to a step by `Ledger.transact`; of no use once the step has returned.

    `now` is Unix time in microseconds, read once for the step. `db` is for reading the projection as it
    is after all earlier steps; whatever is written goes through `append`.
    """

    def __init__(self, db: sqlite3.Connection, head: Head, now: int) -> None:
        self.db = db
        self.now = now
        self.head = head
        self._ended = False

    def append(self, type: str, actor: str, data: Mapping[str, object]) -> Entry:  # noqa: A002 - the member's name
        """Append an entry and fold it into the projection.

        It is durable when the future of the step resolves, not before. Raises EntryRefused, with nothing
        written, if `data` has no canonical form or contradicts the projection (an outcome of a payment
        that does not exist, a payment_id signed twice); LedgerUnavailable if the transaction is gone.
        """
        if self._ended or not self.db.in_transaction:  # outside of one each statement would commit by itself
            raise LedgerUnavailable("the transaction has ended")
        seq = self.head.seq + 1
        encoded = entry.encode(seq, entry.timestamp(self.now), type, actor, data)
        hash_ = chain.link(self.head.hash, encoded)
        appended = entry.decode(encoded, hash_)  # what is folded and returned is what was written
        with savepoint(self.db, "entry"):
            self.db.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, encoded.decode(), hash_))
            self.db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", (seq, hash_))
            projection.fold(appended, SqlTables(self.db))
        self.head = Head(seq, hash_)
        return appended

    def end(self) -> None:
        """Called when the step is over: from now on nothing can be appended to it."""
        self._ended = True


@contextmanager
def savepoint(db: sqlite3.Connection, name: str) -> Iterator[None]:
    """Undo what the body did if it raises. Some errors (disk full, I/O) make SQLite undo the whole
    transaction instead; `db.in_transaction` is false then, and there is nothing left to undo."""
    db.execute(f"SAVEPOINT {name}")
    try:
        yield
        db.execute(f"RELEASE {name}")
    except BaseException:
        if db.in_transaction:
            db.execute(f"ROLLBACK TO {name}")
            db.execute(f"RELEASE {name}")
        raise
