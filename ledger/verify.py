"""The offline check: is the chain whole, and does the projection say what the entries say?

Needs nothing but the file, trusts nothing in it, and changes nothing. It may run beside keyd: it sees one
moment of the ledger. Memory stays small however long the ledger is, because the entries are folded a
second time into a temporary database, which SQLite spills to disk.

First in bulk (`ledger.quick`), which says that all is well or nothing; then, if it must be, entry by entry, here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from ledger import chain, projection, quick, schema, store
from ledger.chain import GENESIS, Head, Row
from ledger.comparison import Comparison
from ledger.errors import EntryRefused, LedgerError

MAX_PROBLEMS: Final = 100
"""Problems put into words. A ledger with more is replaced, not mended line by line."""

type Progress = Callable[[int, int], None]
"""Told how many entries of how many have been checked."""

_CHECK_PATH: Final = "Check the path, your permissions, and that the temporary folder has room."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found."""

    entries: int
    head: Head
    """Of the last entry in the file. Compare it with a head kept elsewhere: see docs/ledger-format.md."""
    problems: list[str]
    """In words, with the entry's seq; empty if all is well."""
    agreed: int = 0
    """Heads kept elsewhere that the ledger still has."""

    @property
    def ok(self) -> bool:
        return not self.problems


class _Table(NamedTuple):
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


_COMPARED: Final = (
    _Table("spend", ("day", "domain", "caller"), ("usd_micros", "calls")),
    _Table("spend_total", ("day",), ("usd_micros", "calls")),
    _Table("payment_entries", ("payment_id", "seq"), ()),
    _Table("facts", ("kind", "key"), ("value", "seq")),
    _Table(
        "payments", ("payment_id",), tuple(name for name in schema.PAYMENT_COLUMNS if name != "payment_id")
    ),
)


def verify(
    path: Path, *, against: Iterable[Head] = (), progress: Progress = lambda done, total: None
) -> Verdict:
    """Check the ledger at `path` from its first entry, and that it still has the heads of `against`.

    `against` is in ascending order of `seq`. Raises LedgerError if the ledger cannot be read, or is none.
    """
    run = _Run(progress)
    try:
        return _verify(run, path, against)
    except LedgerError as error:
        raise LedgerError(f"cannot verify {path}: {error}", error.hint) from error
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}", _CHECK_PATH) from error
    except sqlite3.Error as error:
        raise LedgerError(f"cannot read {path}: {error}", _CHECK_PATH) from error


def _verify(run: _Run, path: Path, against: Iterable[Head]) -> Verdict:
    """Damage is a verdict; a file that cannot be read, or is no ledger, is an error."""
    compared = Comparison(against)
    try:
        with _attached(path) as db:
            sound = run.check_in_bulk(db)
            if sound:
                run.problems += compared.with_ledger(db, run.last)
        if not sound and not run.unusable:
            with _attached(path) as db:
                run.check_carefully(db)
                run.problems += compared.with_ledger(db, run.last)
    except UnicodeDecodeError:  # Python's, of a message of SQLite's that quotes the file
        run.problem("file: holds text that is not UTF-8")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise
        run.problem(f"file: {error} (found after entry {run.last.seq})")
    return Verdict(run.entries, run.last, run.problems, compared.agreed)


@contextmanager
def _attached(path: Path) -> Iterator[sqlite3.Connection]:
    """A temporary database ready for the second fold, with the ledger attached read-only, at one moment of it."""
    with closing(sqlite3.connect("", uri=True, isolation_level=None)) as db:
        _attach(db, path)
        db.execute("BEGIN")
        yield db


def _attach(db: sqlite3.Connection, path: Path) -> None:
    db.text_factory = lambda text: text.decode(errors="backslashreplace")  # a changed file can hold anything
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA journal_mode = OFF")  # the second fold is thrown away in any case
    db.executescript(schema.PROJECTION + schema.EMPTY)
    store.refuse_empty(path)
    uri = path.absolute().as_uri()
    try:
        db.execute("ATTACH ? AS ledger", (f"{uri}?mode=ro",))
        store.check_format(db, "ledger")
    except sqlite3.OperationalError:
        # SQLite reads a WAL database only where it may put its -shm file. A copy at rest can do without
        # one; a copy with entries in its -wal cannot: it would verify, and lack them.
        if store.has_journal(path):
            raise
        db.execute("ATTACH ? AS ledger", (f"{uri}?immutable=1",))
        store.check_format(db, "ledger")


class _Run:
    """One run over a ledger that is attached to a database as `ledger`; `main` takes the second fold."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.entries = 0
        self.last = Head(0, GENESIS)
        self.problems: list[str] = []
        self.unusable = False
        """What the tables hold cannot be trusted, nor compared."""

    def problem(self, words: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(plain(words))
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append(f"and more: only the first {MAX_PROBLEMS} problems are listed")

    def check_in_bulk(self, db: sqlite3.Connection) -> bool:
        """Whether all is well. If not, the entries are still to be looked at one by one."""
        try:
            store.check_tables(db, "ledger")
        except LedgerError as error:
            self.problem(f"file: {error}")
            self.unusable = True
            return False
        self.check_pages(db)
        if self.problems:
            return False
        head = quick.is_sound(db, partial(self._report, total=_count(db)))
        if head is None:
            return False
        self.entries, self.last = head.seq, head
        return True

    def check_carefully(self, db: sqlite3.Connection) -> None:
        """The same again, in words."""
        self.check_chain(db)
        self.check_head(db)
        self.check_projection(db)

    def check_pages(self, db: sqlite3.Connection) -> None:
        """SQLite's own check: a damaged index gives keyd wrong answers from right rows."""
        try:
            for (message,) in db.execute(f"PRAGMA ledger.integrity_check({MAX_PROBLEMS})"):
                if message != "ok":
                    self.problem(f"file: {' '.join(str(message).split())}")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # The worst damage ends this check. The entries are read all the same: they say where it is.
            self.problem(f"file: {error}")

    def _report(self, done: int, *, total: int) -> None:
        self._progress(done, max(done, total))

    def check_chain(self, db: sqlite3.Connection) -> None:
        """Check each entry against the one before, and fold it."""
        total = _count(db)
        rows = db.execute(f"{store.SELECT_ROWS} FROM ledger.entries ORDER BY seq")
        tables = schema.SqlTables(db)
        for row, entry, problems in chain.check(map(Row._make, rows)):
            self.entries += 1
            self.last = Head(row.seq, row.hash)
            if self.entries % quick.BATCH == 0:
                self._report(self.entries, total=total)
            for words in problems:
                self.problem(words)
            if entry is not None:
                try:
                    projection.fold(entry, tables)
                except (
                    EntryRefused,
                    sqlite3.IntegrityError,
                ) as error:  # the last: it gives itself another's seq
                    self.problem(f"entry {row.seq}: contradicts the entries before it: {error}")

    def check_head(self, db: sqlite3.Connection) -> None:
        """Compare the recorded head with the last entry: a tail that was cut off shows here."""
        recorded = db.execute(f"{store.SELECT_HEAD} FROM ledger.meta").fetchone()
        if recorded is None:
            self.problem("head: missing")
            return
        head = Head(*recorded)
        if head.seq > self.last.seq:
            gap = chain.missing(self.last.seq + 1, head.seq)
            self.problem(f"{gap} (the head names entry {head.seq})")
        elif head.seq < self.last.seq:
            self.problem(f"head: names entry {head.seq}, but there are entries up to {self.last.seq}")
        elif head.hash != self.last.hash:
            self.problem(f"head: is not the hash of entry {head.seq}")

    def check_projection(self, db: sqlite3.Connection) -> None:
        """Compare every row of the projection with the second fold, in both directions."""
        days = "SELECT l.latest_day, f.latest_day FROM ledger.meta l, main.meta f"
        for found, folded in db.execute(f"{days} WHERE l.latest_day IS NOT f.latest_day"):
            self.problem(f"projection: latest_day is {found}, the entries say {folded}")
        for table in _COMPARED:
            for words in _differences(db, table):
                self.problem(words)


def _differences(db: sqlite3.Connection, table: _Table) -> Iterator[str]:
    """In words, where `table` of the ledger differs from the fold."""
    name, key, columns = table
    keys = ", ".join(f"a.{column}" for column in key)
    same_key = " AND ".join(f"b.{column} = a.{column}" for column in key)
    for row in db.execute(_absent(name, keys, same_key, there="main", here="ledger")):
        yield f"projection: {name} of {_words(row)} is missing"
    for row in db.execute(_absent(name, keys, same_key, there="ledger", here="main")):
        yield f"projection: {name} of {_words(row)} is not in the entries"
    if not columns:
        return
    found, folded = (", ".join(f"{side}.{column}" for column in columns) for side in "ab")
    joined = f"FROM ledger.{name} a JOIN main.{name} b ON {same_key} WHERE ({found}) IS NOT ({folded})"
    for row in db.execute(f"SELECT {keys}, {found}, {folded} {joined}"):
        width, values = len(columns), row[len(key) :]
        for column, has, should in zip(columns, values[:width], values[width:], strict=True):
            if has != should:
                yield f"projection: {name} of {_words(row[: len(key)])}: {column} is {has}, the entries say {should}"


def _absent(name: str, keys: str, same_key: str, *, there: str, here: str) -> str:
    """Query for the keys of table `name` that are in database `there` and not in `here`."""
    absent = f"NOT EXISTS (SELECT 1 FROM {here}.{name} b WHERE {same_key})"  # noqa: S608 - names from _COMPARED
    return f"SELECT {keys} FROM {there}.{name} a WHERE {absent}"  # noqa: S608 - the same


def _count(db: sqlite3.Connection) -> int:
    """How many entries there seem to be, to say how far the check is."""
    return int(db.execute("SELECT max(seq) FROM ledger.entries").fetchone()[0] or 0)


def _words(key: tuple[object, ...]) -> str:
    return " ".join(map(str, key))


def plain(words: str) -> str:
    """A changed ledger can hold anything: nothing but printable ASCII of it reaches a terminal."""
    return "".join(c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in words)
