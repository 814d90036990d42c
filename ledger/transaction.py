"""A step's view of the ledger: read the projection, append entries, all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ledger import chain, entry, projection
from ledger.chain import Head
from ledger.entry import Entry
from ledger.errors import EntryRefused, LedgerUnavailable
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
        """The newest entry; the ledger's tables name it from the end of the transaction on."""
        self._fault: BaseException | None = None  # what broke off an entry half written
        self._ended = False

    def append(self, type: str, actor: str, data: Mapping[str, object]) -> Entry:  # noqa: A002 - the member's name
        """Append an entry and fold it into the projection.

        It is durable when the future of the step resolves, not before. Raises EntryRefused, with nothing
        written, if `data` has no canonical form or contradicts the projection (an outcome of a payment
        that does not exist, a payment_id signed twice); LedgerUnavailable if the transaction is gone.
        """
        # Outside of a transaction each statement would commit by itself.
        if self._ended or self._fault or not self.db.in_transaction:
            raise LedgerUnavailable("the transaction has ended")
        seq = self.head.seq + 1
        encoded, members = entry.encode_and_parse(seq, entry.timestamp(self.now), type, actor, data)
        hash_ = chain.link(self.head.hash, encoded)
        appended = entry.from_members(members, hash_)  # what is folded and returned is what is written
        try:
            projection.fold(appended, SqlTables(self.db))
            self.db.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, encoded.decode(), hash_))
        except EntryRefused:  # the fold changed nothing
            raise
        except BaseException as error:
            self._fault = error
            raise
        self.head = Head(seq, hash_)
        return appended

    def refuse_half_an_entry(self) -> None:
        """Raises what broke one off: nothing of the step may be kept then, even if the step itself went on."""
        if self._fault is not None:
            raise self._fault

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
