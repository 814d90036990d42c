"""Entries as lines of text: {"entry": the canonical entry, "hash": its hash}, in order.

Such a line holds exactly what the hash covers, byte for byte, so a file of them is a ledger: it can be verified and
made into a ledger file again, with the same head.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from ledger import chain, entry, projection, schema, store
from ledger.chain import GENESIS, Head, Row
from ledger.comparison import Comparison
from ledger.entry import Entry
from ledger.errors import CanonicalError, EntryRefused, LedgerError
from ledger.verify import MAX_PROBLEMS, Verdict, plain

_LINE: Final = re.compile(rb'\{"entry":(\{.*\}),"hash":"([0-9a-f]{64})"\}\n?')
MAX_LINE: Final = 4 * 1024 * 1024
"""Bytes: an entry holds what fitted into a request of 512 KiB."""


def line(encoded: str, hash_: bytes) -> str:
    """One entry, with its line end."""
    return f'{{"entry":{encoded},"hash":"{hash_.hex()}"}}\n'


def restore(export: Path, ledger: Path) -> Head:
    """Make a ledger at `ledger` of a whole export: same entries, same hashes, same head.

    Raises LedgerError, with nothing at `ledger`: it is there already, or the export is damaged or not whole.
    """
    if ledger.exists() or store.has_journal(ledger):
        raise LedgerError(f"{ledger} exists", "Give a path where nothing is; a ledger is never overwritten.")
    draft = Path(f"{ledger}.import")
    try:
        store.create(draft)
        with closing(store.open_writer(draft)) as db:
            head = _fill(db, export)
            db.execute("PRAGMA journal_mode = DELETE")  # one file to move; keyd turns it back
        draft.rename(ledger)
    except OSError as error:
        raise LedgerError(
            f"{error.filename}: {error.strerror}", "Check paths, permissions and room."
        ) from error
    except sqlite3.Error as error:
        raise LedgerError(f"cannot write {draft}: {error}", "Check that the disk has room.") from error
    finally:
        for rest in ("", "-wal", "-shm"):
            Path(f"{draft}{rest}").unlink(missing_ok=True)
    store.sync_folder(ledger.parent)
    return head


def _fill(db: sqlite3.Connection, export: Path) -> Head:
    tables = schema.SqlTables(db)
    head = Head(0, GENESIS)
    db.execute("BEGIN IMMEDIATE")
    for finding in chain.check(rows(export)):
        number, read = finding.row.seq, finding.entry
        if finding.problems or read is None:
            raise LedgerError(f"{export}: {finding.problems[0]}", "Import a whole export that verifies.")
        db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, finding.row.encoded.decode(), read.hash))
        try:
            projection.fold(read, tables)
        except (EntryRefused, sqlite3.IntegrityError) as error:
            raise LedgerError(
                f"{export}: entry {number}: {error}", "Import an export that verifies."
            ) from error
        head = Head(number, read.hash)
    db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", head)
    db.execute("COMMIT")
    return head


def looks_like(path: Path) -> bool:
    """Whether `path` begins as an export does, and not as a ledger file. Raises LedgerError."""
    try:
        # A pipe would wait for a writer, and has no beginning to come back to.
        if not (path.is_file() or path.is_dir()):
            path.stat()
            raise LedgerError(f"{path} is no file", "Check the path; what comes through a pipe needs a file.")
        with path.open("rb") as file:
            return file.read(10) == b'{"entry":{'
    except OSError as error:
        raise LedgerError(
            f"cannot read {path}: {error.strerror}", "Check the path and your permissions."
        ) from error


def verify(export: Path, *, against: Iterable[Head] = ()) -> Verdict:
    """Check the chain of an export from its first entry, and that its entries do not contradict each other."""
    problems: list[str] = []
    entries, last = 0, Head(0, GENESIS)
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.executescript(
            f"PRAGMA journal_mode = OFF; {schema.PROJECTION} {schema.EMPTY} ATTACH '' AS ledger;"
            "CREATE TABLE ledger.entries (seq INTEGER PRIMARY KEY, hash BLOB)"
        )
        db.execute("BEGIN")
        tables = schema.SqlTables(db)
        for row, read, found in chain.check(rows(export)):
            entries, last = entries + 1, Head(row.seq, row.hash)
            db.execute("INSERT OR REPLACE INTO ledger.entries VALUES (?, ?)", last)
            problems += found
            if read is not None:
                problems += _contradictions(read, tables)
        compared = Comparison(against)
        problems += compared.with_ledger(db, last)
    return Verdict(entries, last, problems[:MAX_PROBLEMS], compared.agreed)


def _contradictions(read: Entry, tables: projection.Tables) -> list[str]:
    try:
        projection.fold(read, tables)
    except (EntryRefused, sqlite3.IntegrityError) as error:  # the last: sums beyond 64 bits
        return [f"entry {read.seq}: contradicts the entries before it: {plain(str(error))}"]
    return []


def rows(export: Path) -> Iterator[Row]:
    """The rows of an export, unchecked but for their form. Raises LedgerError, OSError."""
    with export.open("rb") as file:
        number = seq = 0
        while text := file.readline(MAX_LINE):
            number += 1
            match = _LINE.fullmatch(text)
            if match is None:
                raise LedgerError(
                    f"{export}: line {number} is not an entry with its hash",
                    "A last line that ends in the middle was not written to the end: take the export again.",
                )
            seq = _seq(match[1], seq + 1)
            yield Row(seq, match[1], bytes.fromhex(match[2].decode()))


def _seq(encoded: bytes, place: int) -> int:
    """The number that an entry gives itself; that of its place if it cannot be read, for the check to say so."""
    try:
        return entry.decode(encoded, b"").seq
    except CanonicalError:
        return place
