"""The ledger's file: making it, opening it, and telling it from something else.

Nothing here opens the file except through SQLite: closing any other descriptor of it would drop the POSIX
locks of every connection this process has (sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from ledger import chain, schema
from ledger.chain import Head, Row
from ledger.errors import LedgerError

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for somebody who looks into the file with sqlite3; keyd's requests time out after 10 s."""

SELECT_ROWS: Final = "SELECT seq, coalesce(CAST(entry AS BLOB), x''), coalesce(CAST(hash AS BLOB), x'')"
SELECT_HEAD: Final = "SELECT CAST(coalesce(head_seq, -1) AS INTEGER), CAST(coalesce(head_hash, x'') AS BLOB)"
"""Columns of a `Row` and of a `Head`: of these types, even where damage left something else."""

MAX_JOURNAL: Final = 64 * 1024 * 1024
"""Bytes of the write-ahead log. SQLite begins it anew, at 4 MB, as soon as nobody reads in it: whoever reads all the time
would let it grow until the disk is full."""

MAKE_ROOM: Final = "Make room on its file system. If there is room, the disk is at fault: keep the file, and restore a backup."
"""A full disk is an I/O error to SQLite where it cannot even make its shared memory."""
RESTORE: Final = "Keep the file for examination, run `osmoda-keyctl ledger verify --file FILE` (`python -m ledger verify FILE`) on it, and restore a backup."


def lock(path: Path) -> int:
    """Become the one writer of the ledger at `path`: an exclusive flock on `<path>.lock`, as a descriptor.

    The lock lives as long as the descriptor, so a killed process leaves none behind. Raises LedgerError.
    """
    name = f"{path}.lock"
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LedgerError(
            f"cannot open {name}: {error.strerror}",
            "Check that its folder exists, can be written, and belongs to keyd's user.",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LedgerError(
            f"{path} is in use by another keyd",
            "Two writers would break the chain. Stop the other one (`systemctl status osmoda-keyd`), "
            "or give this one its own state_dir.",
        ) from error
    return descriptor


def create(path: Path) -> None:
    """Make an empty ledger, readable by its owner alone, if there is nothing at `path`. Raises LedgerError.

    It is made beside its place and moved there when it is complete and on disk. So an empty file is
    never taken for a new ledger: it is one that lost its payments, and opening it fails.
    """
    if path.exists():
        return
    if has_journal(path):  # SQLite would play the old ledger's last pages into the new one
        raise LedgerError(
            f"{path} is missing, but its journal, {path.name}-wal, is there",
            "Put the ledger back beside its journal, or move the journal away to start a new ledger.",
        )
    draft = Path(f"{path}.new")
    try:
        draft.unlink(missing_ok=True)  # what a crash left half made
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = _connect(draft, "rw")
        try:
            db.executescript(_NEW_LEDGER)
        finally:
            db.close()
        draft.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(
            f"cannot create {path}: {error.strerror}", "Check its folder and the disk."
        ) from error
    except sqlite3.Error as error:
        raise LedgerError(f"cannot create {path}: {error}", "Check its folder and the disk.") from error


def has_journal(path: Path) -> bool:
    """Whether entries of the ledger at `path` may still be in its write-ahead log alone."""
    journal = Path(f"{path}-wal")
    return journal.exists() and journal.stat().st_size > 0


def open_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes: WAL, one fsync for each commit, transactions begun and ended by hand.

    Looks at the end of the ledger only, however long it is. Raises LedgerError if the file is not a
    ledger of this format, or if its end is not sound.
    """
    try:
        refuse_empty(path)
        db = _connect(path, "rw")
        try:
            _prepare_writer(db)
        except BaseException:
            db.close()
            raise
    except LedgerError as error:
        raise LedgerError(f"cannot open {path}: {error}", error.hint) from error
    except (
        OSError,
        sqlite3.Error,
        UnicodeDecodeError,
    ) as error:  # the last: messages that quote a damaged file
        raise LedgerError(f"cannot open {path}: {error}", way_out(error)) from error
    return db


def way_out(error: Exception) -> str:
    """What to do about a file that cannot be opened: where the disk is at fault, nothing has to be restored."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says which step failed
    return MAKE_ROOM if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) else RESTORE


def is_damage(error: BaseException) -> bool:
    """Whether SQLite found that the file is not what was written; not that something could not be read or written now."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises sqlite3.Error."""
    db = _connect(path, "ro")
    db.execute("PRAGMA query_only = ON")
    return db


def check_format(db: sqlite3.Connection, name: str = "main") -> None:
    """Raises LedgerError unless database `name` of `db` says of itself that it is a ledger of this format."""
    application_id = db.execute(f"PRAGMA {name}.application_id").fetchone()[0]
    version = db.execute(f"PRAGMA {name}.user_version").fetchone()[0]
    if application_id != schema.APPLICATION_ID:
        raise LedgerError("it is not an osmoda ledger", "Check the path.")
    if version != schema.FORMAT:
        raise LedgerError(
            f"it has format {version}, this program knows format {schema.FORMAT}",
            "Use the version of osmoda-x402 that wrote it, or a newer one.",
        )


def check_tables(db: sqlite3.Connection, name: str = "main") -> None:
    """Raises LedgerError unless database `name` of `db` holds exactly the tables of this format.

    Exactly, because a trigger or a view in the file could bend what is written or read.
    """
    found = _objects(db, name)
    if found != (expected := _expected_objects()):
        names = ", ".join(sorted({f"{kind} {item}" for kind, item, _ in found ^ expected}))
        raise LedgerError(f"its tables are not those of the format: {names}", RESTORE)


def read_head(db: sqlite3.Connection) -> Head:
    """The recorded head, after comparing it with the last entry. Raises LedgerError if they differ."""
    meta = db.execute(f"{SELECT_HEAD} FROM meta").fetchone()
    if meta is None:
        raise LedgerError("its head is missing", RESTORE)
    head = Head(*meta)
    newest = [Row._make(row) for row in db.execute(f"{SELECT_ROWS} FROM entries ORDER BY seq DESC LIMIT 2")]
    if not newest:
        if head != Head(0, chain.GENESIS):
            raise LedgerError(f"its head names entry {head.seq}, but there are no entries", RESTORE)
        return head
    last = newest[0]
    if head != Head(last.seq, last.hash):
        raise LedgerError(
            f"its head names entry {head.seq}, but the last entry is {last.seq} or has another hash", RESTORE
        )
    prev_hash = newest[1].hash if len(newest) == 2 else chain.GENESIS
    if chain.link(prev_hash, last.encoded) != last.hash:
        raise LedgerError(f"its last entry, {last.seq}, does not match its hash", RESTORE)
    return head


_NEW_LEDGER: Final = f"""
BEGIN;
PRAGMA application_id = {schema.APPLICATION_ID};
PRAGMA user_version = {schema.FORMAT};
{schema.ENTRIES}{schema.PROJECTION}{schema.INDEXES}
{schema.EMPTY}
COMMIT;
"""


def refuse_empty(path: Path) -> None:
    """SQLite takes an empty file for a new database, and throws away a journal that it finds beside it."""
    if path.stat().st_size == 0:
        raise LedgerError("it is empty, which a ledger never is", RESTORE)


def _prepare_writer(db: sqlite3.Connection) -> None:
    check_format(db)  # before any pragma that writes: the file may be somebody else's
    check_tables(db)
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise LedgerError("its file system cannot hold a write-ahead log", "Keep the ledger on a local disk.")
    db.execute("PRAGMA synchronous = FULL")  # an acknowledged entry outlives a power cut
    db.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL}")  # what is begun anew does not stay long
    read_head(db)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # no transaction that this room did not begin
        check_same_thread=False,  # opened by one thread, used by another; never by two at a time
    )
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _objects(db: sqlite3.Connection, name: str) -> frozenset[tuple[str, str, str | None]]:
    return frozenset(db.execute(f"SELECT type, name, sql FROM {name}.sqlite_schema"))  # noqa: S608 - constant


def _expected_objects() -> frozenset[tuple[str, str, str | None]]:
    db = sqlite3.connect(":memory:")
    try:
        db.executescript(_NEW_LEDGER)
        return _objects(db, "main")
    finally:
        db.close()


def sync_folder(folder: Path) -> None:
    """Without this a power cut may lose the file's name, and with it the ledger."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
