"""Disks that fail: at each statement, at each page of the journal, and really: a small tmpfs, a read-only mount.

Whatever fails, nobody was told that an entry is on disk which is not, the next start finds a sound ledger, and once the
disk is well the same ledger goes on.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ledger import Entry, Ledger, LedgerError, LedgerUnavailable, Transaction
from ledger.verify import verify

WAIT_S = 60


def noted(text: str) -> Callable[[Transaction], Entry]:
    return lambda tx: tx.append("test.noted", "test", {"text": text})


def signed(data: dict[str, Any]) -> Callable[[Transaction], Entry]:
    return lambda tx: tx.append("x402.payment.signed", "uid:991", data)


class Failing:
    """A connection whose statement number `fails_at` fails as SQLite reports a bad disk.

    `gives_up`: the transaction is gone with it, as after SQLITE_FULL, SQLITE_IOERR and SQLITE_NOMEM.
    """

    def __init__(self, db: sqlite3.Connection, fails_at: int, *, gives_up: bool) -> None:
        self._db = db
        self._fails_at = fails_at
        self._gives_up = gives_up
        self.statements = 0

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        self.statements += 1
        if self.statements == self._fails_at:
            if self._gives_up and self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@contextmanager
def failing(ledger: Ledger, at: int, *, gives_up: bool) -> Iterator[Failing]:
    ledger.transact(lambda _: None).result(WAIT_S)  # the writer is idle now
    well = ledger._db
    ledger._db = Failing(well, at, gives_up=gives_up)  # type: ignore[assignment]
    try:
        yield ledger._db  # type: ignore[misc]
    finally:
        ledger.transact(lambda _: None).exception(WAIT_S)
        ledger._db = well


@pytest.mark.parametrize("gives_up", [True, False], ids=["the transaction is gone", "the transaction stays"])
def test_an_error_at_any_statement_records_nothing_and_the_next_payment_works(
    path: Path, clock: Any, signed_data: Any, gives_up: bool
) -> None:
    with closing(Ledger.open(path, clock=clock)) as ledger:
        with failing(ledger, 0, gives_up=gives_up) as counted:
            ledger.transact(signed(signed_data(1))).result(WAIT_S)
            needed = counted.statements
        assert needed > 10
        for at in range(1, needed + 1):
            with failing(ledger, at, gives_up=gives_up):
                outcome = ledger.transact(signed(signed_data(100 + at))).exception(WAIT_S)
            assert isinstance(outcome, LedgerUnavailable), at
            assert ledger.head().seq == at, "nothing of the failed step"
            ledger.transact(signed(signed_data(1 + at))).result(WAIT_S)
            assert ledger.head().seq == at + 1
    verdict = verify(path)
    assert (verdict.problems, verdict.entries) == ([], needed + 1)


def test_a_journal_that_cannot_grow_by_one_more_page_loses_nothing_that_was_acknowledged(
    path: Path, clock: Any
) -> None:
    """The write fails at each page in turn (RLIMIT_FSIZE), wherever in a commit that is."""
    acknowledged: dict[int, bytes] = {}
    refused = 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(noted("first")).result(WAIT_S)
        begin = Path(f"{path}-wal").stat().st_size
        for pages in range(40):
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (begin + pages * 2048, hard)
            )  # also in the middle of a page
            try:
                with suppress(LedgerUnavailable):
                    entry = ledger.transact(noted("x" * 9000)).result(WAIT_S)
                    acknowledged[entry.seq] = entry.hash
                    continue
                refused += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        last = ledger.transact(noted("the disk is well again")).result(WAIT_S)
        assert last.seq == len(acknowledged) + 2
    assert refused
    assert acknowledged
    assert verify(path).ok
    with closing(Ledger.open(path, clock=clock)) as ledger:
        kept = {entry.seq: entry.hash for entry in ledger.entries(limit=1000)}
    assert acknowledged.items() <= kept.items()


# --- real disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of one mebibyte; only root can have one, as in CI."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(folder)]
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("mounting takes root and CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(ledger: Ledger, acknowledged: dict[int, bytes]) -> None:
    """Append until the disk is full. Raises LedgerUnavailable then."""
    for _ in range(1000):
        entry = ledger.transact(noted("x" * 4000)).result(WAIT_S)
        acknowledged[entry.seq] = entry.hash


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_full_disk_refuses_with_the_way_out_and_goes_on_when_there_is_room(
    small_disk: Path, clock: Any
) -> None:
    path = small_disk / "ledger.sqlite3"
    with closing(Ledger.open(path, clock=clock)) as ledger:
        acknowledged: dict[int, bytes] = {}
        with pytest.raises(LedgerUnavailable, match="full") as refused:
            fill(ledger, acknowledged)
        assert "Free disk space" in refused.value.hint
        assert acknowledged
        with pytest.raises(LedgerUnavailable):  # and again, as often as it is asked
            ledger.transact(noted("x" * 4000)).result(WAIT_S)
        kept = {entry.seq: entry.hash for entry in ledger.entries(limit=2000)}  # reading still works
        assert kept == acknowledged
        remount(small_disk, "size=8m")
        assert ledger.transact(noted("room")).result(WAIT_S).seq == len(kept) + 1
    assert verify(path).ok


def crowd(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_a_ledger_that_finds_no_room_at_its_start_asks_for_room_and_not_for_a_backup(
    small_disk: Path, clock: Any
) -> None:
    path = small_disk / "ledger.sqlite3"
    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(noted("first")).result(WAIT_S)
    crowd(small_disk)
    with pytest.raises(LedgerError, match="disk") as refused:
        Ledger.open(path, clock=clock)
    assert refused.value.hint.startswith("Make room")
    (small_disk / "filler").unlink()
    Ledger.open(path, clock=clock).close()


def test_a_ledger_closed_on_a_full_disk_opens_when_there_is_room(small_disk: Path, clock: Any) -> None:
    path = small_disk / "ledger.sqlite3"
    acknowledged: dict[int, bytes] = {}
    with closing(Ledger.open(path, clock=clock)) as ledger, suppress(LedgerUnavailable):
        fill(ledger, acknowledged)
    remount(small_disk, "size=8m")
    with closing(Ledger.open(path, clock=clock)) as ledger:
        assert ledger.head().seq == len(acknowledged)
    assert verify(path).ok


def test_a_disk_without_room_for_a_ledger_leaves_none(small_disk: Path, clock: Any) -> None:
    crowd(small_disk)
    path = small_disk / "ledger.sqlite3"
    with pytest.raises(LedgerError, match=r"cannot (create|open)"):
        Ledger.open(path, clock=clock)
    assert not path.exists()
    (small_disk / "filler").unlink()
    Ledger.open(path, clock=clock).close()
    assert verify(path).ok


def test_a_read_only_disk_is_said_and_its_ledger_can_be_verified(small_disk: Path, clock: Any) -> None:
    path = small_disk / "ledger.sqlite3"
    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(noted("one")).result(WAIT_S)
    remount(small_disk, "ro")
    try:
        with pytest.raises(LedgerError, match="Read-only file system") as refused:
            Ledger.open(path, clock=clock)
        assert "can be written" in refused.value.hint
        assert verify(path).ok
    finally:
        remount(small_disk, "rw")
    with closing(Ledger.open(path, clock=clock)) as ledger:
        assert ledger.transact(noted("two")).result(WAIT_S).seq == 2
