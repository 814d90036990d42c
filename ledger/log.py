"""The ledger: one writer, group commit, any number of readers.

    ledger = Ledger.open(path, clock=lambda: time.time_ns() // 1000)
    future = ledger.transact(lambda tx: tx.append("keyd.started", "keyd", {"version": "0.1.0"}))
    future.result()  # the entry is on disk

Steps run one after another in one thread, so a step may read the projection, decide and append without
anybody in between. Steps that wait together share one commit, hence one fsync.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger import entry, store
from ledger.chain import Head
from ledger.entry import Entry
from ledger.errors import CanonicalError, LedgerError, LedgerUnavailable
from ledger.transaction import Transaction, savepoint

MAX_BATCH: Final = 256
"""Steps in one commit. Bounds how long the first waits for the last; an fsync costs more than 256 steps do."""

_DISK: Final = "Free disk space or mend the file system that the ledger is on; nothing was recorded."


class _Job(NamedTuple):
    step: Callable[[Transaction], Any]
    future: Future[Any]


class Ledger:
    """An open ledger. Every method may be called from any thread."""

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], int]) -> Ledger:
        """Open the ledger at `path` for writing; make it, mode 0600, if there is none.

        `clock` gives Unix time in microseconds. Takes the same time however long the ledger is: only its
        end is checked. Raises LedgerError if it is in use, not a ledger, or not sound.
        """
        lock = store.lock(path)
        try:
            store.create(path)
            return cls(path, clock, store.open_writer(path), lock)
        except BaseException:
            os.close(lock)
            raise

    def __init__(self, path: Path, clock: Callable[[], int], db: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self.fault: str | None = None
        """Why the last write failed; None once one has succeeded."""
        self._damage: str | None = None  # for good: other pages may be wrong without anybody noticing
        self._clock = clock
        self._db = db  # the writer thread's alone, until that has ended
        self._lock = lock
        self._jobs: deque[_Job] = deque()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        self._journal_is_long = False
        self._changed = threading.Condition()  # guards the three above
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def transact[T](self, step: Callable[[Transaction], T]) -> Future[T]:
        """Run `step` in the writer thread. The future resolves when what it appended is on disk.

        If the step raises, what it appended is undone and the future raises the same. If the disk or the
        database fails, the future raises LedgerUnavailable and nothing of the step is recorded; should
        the machine die right then, the entry may still be found after the restart. That can count a
        payment that was never signed, and cannot miss one that was.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(LedgerUnavailable("the ledger is closed"))
            else:
                self._jobs.append(_Job(step, future))
                self._changed.notify()
        return future

    def read[T](self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` on a connection that cannot write. It sees one moment of the ledger, all of it on disk.

        Raises LedgerUnavailable for every sqlite3.Error.
        """
        try:
            db = self._borrow_reader()
            try:
                db.execute("BEGIN")
                return query(db)
            finally:
                db.rollback()
                self._return_reader(db)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"cannot read {self.path}: {error}", self._way_out(error)) from error

    def shorten_journal(self) -> None:
        """For whoever reads again and again, before each time: begins a long write-ahead log anew, if nobody reads now.

        Waits for the writer. Raises LedgerUnavailable.
        """
        try:
            if os.stat(f"{self.path}-wal").st_size <= store.MAX_JOURNAL:
                return
        except OSError:
            return
        self._journal_is_long = True
        self.transact(lambda _: None).result()

    def entries(self, *, limit: int, after: int | None = None) -> list[Entry]:
        """At most `limit` entries, oldest first: the newest ones, or those that follow entry `after`."""
        if after is None:
            order = "WHERE seq > (SELECT head_seq FROM meta) - ? ORDER BY seq"
            values: tuple[int, ...] = (max(limit, 0),)
        else:
            order = "WHERE seq > ? ORDER BY seq LIMIT ?"
            values = (after, max(limit, 0))
        columns = "SELECT CAST(entry AS BLOB), hash FROM entries "
        rows = self.read(lambda db: db.execute(columns + order, values).fetchall())
        try:
            return [entry.decode(encoded, hash_) for encoded, hash_ in rows]
        except CanonicalError as error:
            raise LedgerError(
                f"{self.path} holds something that is not an entry: {error}",
                "Run `osmoda-keyctl ledger verify`.",
            ) from error

    def head(self) -> Head:
        """The newest entry's place and hash."""
        return self.read(lambda db: Head(*db.execute(f"{store.SELECT_HEAD} FROM meta").fetchone()))

    def close(self) -> None:
        """Run what was handed to `transact`, then close. Waits for it; may be called again."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify()
        self._writer.join()
        if not first:
            return
        with self._changed:
            while self._idle_readers:
                self._idle_readers.pop().close()
        self._db.close()
        os.close(self._lock)

    def _write(self) -> None:
        while batch := self._next_batch():
            self._commit(batch)
            del batch  # or the last step's result, which may hold a key, would live until the next one comes

    def _next_batch(self) -> list[_Job]:
        """The steps that wait, at least one; none when the ledger is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_BATCH))]

    def _commit(self, batch: list[_Job]) -> None:
        """Run the steps of `batch` in one transaction, then tell each how it went."""
        running = [job for job in batch if job.future.set_running_or_notify_cancel()]
        try:
            self._refuse_damage()
            if self._journal_is_long:
                self._journal_is_long = False
                self._empty_journal()
            self._db.execute("BEGIN IMMEDIATE")
            before = head = store.read_head(self._db)
            replies = []
            for job in running:
                head, reply = self._run(job, head)
                replies.append(reply)
            if head != before:
                self._db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", head)
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody may wait for ever or take it for done
            with suppress(sqlite3.Error):  # a failing ROLLBACK ends the transaction all the same
                self._db.rollback()
            for job in running:
                job.future.set_exception(self._unavailable(error))
        else:
            if head != before:  # a transaction without entries succeeds on a full disk too
                self.fault = None
            for reply in replies:
                reply()

    def _empty_journal(self) -> None:
        """Everything in it goes into the ledger's file, as far as nobody reads it. The next entry begins it anew."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _run(self, job: _Job, head: Head) -> tuple[Head, Callable[[], None]]:
        """Run one step in the open transaction: the head after it, and how to tell its future.

        Raises sqlite3.Error if the transaction is gone, and with it the steps before.
        """
        transaction = Transaction(self._db, head, self._clock())
        try:
            with savepoint(self._db, "step"):
                result = job.step(transaction)
                transaction.refuse_half_an_entry()
        except BaseException as error:  # the future's owner gets it
            if not self._db.in_transaction:
                raise sqlite3.OperationalError(f"the transaction was rolled back: {error}") from error
            fault = self._unavailable(error) if isinstance(error, sqlite3.Error) else error
            return head, partial(job.future.set_exception, fault)
        finally:
            transaction.end()
        return transaction.head, partial(job.future.set_result, result)

    def _refuse_damage(self) -> None:
        """A page that is garbage is not the only one that a bad disk or a strange hand wrote: nothing is decided on the
        rest. Raises LedgerError until the next start."""
        if self._damage is not None:
            raise LedgerError(f"the ledger is damaged: {self._damage}", store.RESTORE)

    def _way_out(self, error: BaseException) -> str:
        if store.is_damage(error):
            self.fault = self._damage = str(error)
        return store.RESTORE if store.is_damage(error) else _DISK

    def _unavailable(self, error: BaseException) -> LedgerUnavailable:
        self.fault = str(error)
        hint = error.hint if isinstance(error, LedgerError) else self._way_out(error)
        unavailable = LedgerUnavailable(f"nothing was recorded in {self.path}: {error}", hint)
        unavailable.__cause__ = error
        return unavailable

    def _borrow_reader(self) -> sqlite3.Connection:
        with self._changed:
            if self._closed:
                raise LedgerUnavailable("the ledger is closed")
            if self._idle_readers:
                return self._idle_readers.pop()
        return store.open_reader(self.path)

    def _return_reader(self, db: sqlite3.Connection) -> None:
        with self._changed:
            if not self._closed:
                self._idle_readers.append(db)
                return
        db.close()
