"""The writer: all or nothing, acknowledged only when durable, one fsync for many."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger import Entry, EntryRefused, Head, Ledger, LedgerError, LedgerUnavailable, Transaction
from ledger.chain import GENESIS
from ledger.verify import verify

WAIT_S = 60  # for an event of another thread; only a hanging test waits that long


def noted(text: str = "") -> Callable[[Transaction], Entry]:
    return lambda transaction: transaction.append("test.noted", "test", {"text": text})


def texts(ledger: Ledger) -> list[str]:
    return [entry.data["text"] for entry in ledger.entries(limit=10_000)]


@contextmanager
def held(ledger: Ledger) -> Iterator[None]:
    """Keep the writer thread in a step for the body, so that what the body hands over waits together."""
    entered, release = threading.Event(), threading.Event()

    def step(_: Transaction) -> None:
        entered.set()
        release.wait(WAIT_S)

    holding = ledger.transact(step)
    assert entered.wait(WAIT_S)
    try:
        yield
    finally:
        release.set()
        holding.result(WAIT_S)


def writer_connection(ledger: Ledger) -> sqlite3.Connection:
    return ledger._db


# --- appending and reading


def test_entries_are_numbered_stamped_and_chained(ledger: Ledger) -> None:
    first = ledger.transact(noted("one")).result(WAIT_S)
    second = ledger.transact(noted("two")).result(WAIT_S)

    assert (first.seq, second.seq) == (1, 2)
    assert first.ts == "2026-11-21T02:00:34.123456Z"
    assert first.type == "test.noted"
    assert first.actor == "test"
    assert ledger.entries(limit=10) == [first, second]
    assert ledger.head() == Head(2, second.hash)


def test_an_empty_ledger_has_the_genesis_head(ledger: Ledger) -> None:
    assert ledger.head() == Head(0, GENESIS)
    assert ledger.entries(limit=10) == []


def test_entries_come_oldest_first_from_the_end_or_after_a_place(ledger: Ledger) -> None:
    for number in range(5):
        ledger.transact(noted(str(number)))
    ledger.transact(noted("5")).result(WAIT_S)

    assert [entry.seq for entry in ledger.entries(limit=2)] == [5, 6]
    assert [entry.seq for entry in ledger.entries(limit=2, after=0)] == [1, 2]
    assert [entry.seq for entry in ledger.entries(limit=9, after=4)] == [5, 6]
    assert ledger.entries(limit=9, after=6) == []
    assert ledger.entries(limit=0) == ledger.entries(limit=0, after=0) == []
    assert ledger.entries(limit=-1) == ledger.entries(limit=-1, after=0) == []


def test_a_step_reads_the_clock_once(ledger: Ledger) -> None:
    def step(transaction: Transaction) -> tuple[Entry, Entry, int]:
        return transaction.append("a", "test", {}), transaction.append("b", "test", {}), transaction.now

    first, second, now = ledger.transact(step).result(WAIT_S)
    assert first.ts == second.ts
    assert now % 1_000_000 == int(first.ts[-7:-1])


def test_a_clock_set_back_changes_the_stamps_and_not_the_order(path: Path) -> None:
    times = iter([2_000_000, 1_000_000, 1])
    with closing(Ledger.open(path, clock=lambda: next(times))) as ledger:
        stamps = [ledger.transact(noted()).result(WAIT_S).ts for _ in range(3)]
    assert stamps == sorted(stamps, reverse=True)
    assert verify(path).ok


def test_the_returned_entry_is_what_was_written_whatever_happens_to_the_data_later(ledger: Ledger) -> None:
    data: dict[str, Any] = {"list": [1]}
    entry = ledger.transact(lambda transaction: transaction.append("a", "test", data)).result(WAIT_S)
    data["list"].append(2)
    assert entry.data == {"list": [1]}
    assert ledger.entries(limit=1) == [entry]


def test_a_step_sees_what_the_steps_before_it_appended(ledger: Ledger, signed_data: Any) -> None:
    def spent(transaction: Transaction) -> int:
        return transaction.db.execute("SELECT sum(usd_micros) FROM spend_total").fetchone()[0] or 0

    def pay(number: int) -> Callable[[Transaction], bool]:
        def step(transaction: Transaction) -> bool:
            if spent(transaction) + 1000 > 5000:
                return False
            transaction.append("x402.payment.signed", "test", signed_data(number))
            return True

        return step

    with held(ledger):
        futures = [ledger.transact(pay(number)) for number in range(40)]
    assert sum(future.result(WAIT_S) for future in futures) == 5


def test_a_reader_cannot_write(ledger: Ledger) -> None:
    with pytest.raises(LedgerUnavailable):
        ledger.read(lambda db: db.execute("DELETE FROM entries"))


def test_readers_in_many_threads_see_whole_commits(ledger: Ledger) -> None:
    """Two entries a step: nobody ever sees an odd number, nor a head that is not the last entry's."""
    done = threading.Event()
    seen: list[tuple[int, int]] = []

    def look(db: sqlite3.Connection) -> tuple[int, int]:
        count = db.execute("SELECT count(*) FROM entries").fetchone()[0]
        return count, db.execute("SELECT head_seq FROM meta").fetchone()[0]

    def watch() -> None:
        seen.append(ledger.read(look))
        while not done.is_set():
            seen.append(ledger.read(look))

    watchers = [threading.Thread(target=watch) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for _ in range(50):
        ledger.transact(lambda tx: (tx.append("a", "test", {}), tx.append("b", "test", {}))).result(WAIT_S)
    done.set()
    for watcher in watchers:
        watcher.join()
    assert seen
    assert all(count == head and count % 2 == 0 for count, head in seen)


# --- group commit


def test_steps_that_wait_together_share_one_commit(ledger: Ledger) -> None:
    statements: list[str] = []
    with held(ledger):
        writer_connection(ledger).set_trace_callback(statements.append)
        futures = [ledger.transact(noted(str(number))) for number in range(100)]
    assert [future.result(WAIT_S).seq for future in futures] == list(range(1, 101))
    # the held step's own commit, and one for the hundred
    assert statements.count("COMMIT") == 2


def test_a_future_resolves_only_after_its_commit(ledger: Ledger) -> None:
    early: list[int] = []
    unseen: list[int] = []
    futures: list[Future[Entry]] = []

    def on_statement(statement: str) -> None:  # called before the statement runs
        if statement == "COMMIT":
            early.extend(number for number, future in enumerate(futures) if future.done())

    def on_done(future: Future[Entry]) -> None:  # by now another connection must find it
        seq = future.result().seq
        if not ledger.read(lambda db: db.execute("SELECT 1 FROM entries WHERE seq = ?", (seq,)).fetchone()):
            unseen.append(seq)

    with held(ledger):
        writer_connection(ledger).set_trace_callback(on_statement)
        for number in range(20):
            futures.append(ledger.transact(noted(str(number))))
            futures[-1].add_done_callback(on_done)
    for future in futures:
        future.result(WAIT_S)
    assert early == []
    assert unseen == []


def test_the_writer_asks_for_an_fsync_at_each_commit(ledger: Ledger) -> None:
    db = writer_connection(ledger)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


# --- a step that fails


def test_a_raising_step_leaves_no_trace_and_its_neighbours_stay(ledger: Ledger, path: Path) -> None:
    def failing(transaction: Transaction) -> None:
        transaction.append("test.noted", "test", {"text": "lost"})
        raise RuntimeError("changed my mind")

    with held(ledger):
        before, failed, after = (ledger.transact(step) for step in (noted("before"), failing, noted("after")))
    with pytest.raises(RuntimeError, match="changed my mind"):
        failed.result(WAIT_S)
    assert before.result(WAIT_S).seq == 1
    assert after.result(WAIT_S).seq == 2
    assert texts(ledger) == ["before", "after"]
    assert verify(path).ok


def test_a_refused_entry_writes_nothing_and_the_step_may_go_on(ledger: Ledger, path: Path) -> None:
    def step(transaction: Transaction) -> Entry:
        with pytest.raises(EntryRefused):
            transaction.append("x402.payment.settled", "test", {"payment_id": "0" * 32})
        with pytest.raises(EntryRefused):
            transaction.append("test.noted", "test", {"text": 0.5})
        return transaction.append("test.noted", "test", {"text": "instead"})

    assert ledger.transact(step).result(WAIT_S).seq == 1
    assert texts(ledger) == ["instead"]
    assert verify(path).ok


def test_a_step_that_goes_on_after_half_an_entry_is_undone_and_its_neighbours_stay(
    ledger: Ledger, path: Path, signed_data: Any
) -> None:
    def half(transaction: Transaction) -> None:
        transaction.db.execute("INSERT INTO entries VALUES (2, '{}', x'')")  # in the way of the entry itself
        with pytest.raises(sqlite3.IntegrityError):
            transaction.append("x402.payment.signed", "test", signed_data())
        with pytest.raises(LedgerUnavailable):
            noted("instead")(transaction)

    with held(ledger):
        before, broken, after = (ledger.transact(step) for step in (noted("before"), half, noted("after")))
    with pytest.raises(LedgerUnavailable, match="UNIQUE"):
        broken.result(WAIT_S)
    assert (before.result(WAIT_S).seq, after.result(WAIT_S).seq) == (1, 2)
    assert texts(ledger) == ["before", "after"]
    assert verify(path).ok


def test_a_step_that_exits_does_not_take_the_writer_with_it(ledger: Ledger) -> None:
    def leaving(_: Transaction) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        ledger.transact(leaving).result(WAIT_S)
    assert ledger.transact(noted("still here")).result(WAIT_S).seq == 1


def test_a_transaction_is_of_no_use_after_its_step(ledger: Ledger) -> None:
    kept = ledger.transact(lambda transaction: transaction).result(WAIT_S)
    with pytest.raises(LedgerUnavailable, match="ended"):
        ledger.transact(lambda _: noted("late")(kept)).result(WAIT_S)
    assert ledger.head().seq == 0


def test_a_cancelled_step_never_runs(ledger: Ledger) -> None:
    with held(ledger):
        cancelled, kept = ledger.transact(noted("cancelled")), ledger.transact(noted("kept"))
        assert cancelled.cancel()
    kept.result(WAIT_S)
    assert texts(ledger) == ["kept"]


# --- a disk that fails


@pytest.mark.parametrize("swallowed", [True, False], ids=["the step goes on", "the step raises"])
def test_if_sqlite_gives_up_the_transaction_nothing_of_the_batch_is_recorded(
    ledger: Ledger, path: Path, swallowed: bool
) -> None:
    """As SQLite does by itself on a full disk, an I/O error or no memory."""

    def given_up(transaction: Transaction) -> None:
        transaction.db.execute("ROLLBACK")
        with pytest.raises(LedgerUnavailable):  # and not an entry that commits by itself
            noted("alone")(transaction)
        if not swallowed:
            raise sqlite3.OperationalError("database or disk is full")

    with held(ledger):
        futures = [ledger.transact(step) for step in (noted("before"), given_up, noted("after"))]
    for future in futures:
        with pytest.raises(LedgerUnavailable, match="nothing was recorded"):
            future.result(WAIT_S)
    assert ledger.head() == Head(0, GENESIS)
    assert ledger.transact(noted("later")).result(WAIT_S).seq == 1
    assert verify(path).ok


def test_a_full_database_refuses_and_recovers(ledger: Ledger, path: Path) -> None:
    ledger.transact(noted("first")).result(WAIT_S)
    db = writer_connection(ledger)
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(LedgerUnavailable, match="full") as refused:
        ledger.transact(noted("x" * 100_000)).result(WAIT_S)
    assert "disk space" in refused.value.hint
    assert texts(ledger) == ["first"]
    ledger.transact(lambda transaction: None).result(WAIT_S)  # needs no room, and proves nothing
    assert ledger.fault is not None
    assert "full" in ledger.fault

    db.execute("PRAGMA max_page_count = 1000000")
    assert ledger.transact(noted("second")).result(WAIT_S).seq == 2
    assert ledger.fault is None
    assert verify(path).ok


def test_a_failing_commit_records_nothing_of_its_batch_and_later_ones_work(
    ledger: Ledger, path: Path
) -> None:
    """The journal may not grow (RLIMIT_FSIZE), as on a disk that is full: the write inside COMMIT fails."""
    ledger.transact(noted("first")).result(WAIT_S)
    head = ledger.head()
    statements: list[str] = []
    writer_connection(ledger).set_trace_callback(statements.append)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with held(ledger):
        futures = [ledger.transact(noted(f"{number}" * 20_000)) for number in range(3)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, hard))
    try:
        for future in futures:
            with pytest.raises(LedgerUnavailable, match="nothing was recorded"):
                future.result(WAIT_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert statements.count("COMMIT") == 2  # the held step's, and the one that failed
    assert ledger.head() == head
    assert ledger.transact(noted("second")).result(WAIT_S).seq == 2
    assert texts(ledger) == ["first", "second"]
    assert verify(path).ok


def test_a_transaction_that_cannot_begin_records_nothing_and_later_ones_work(
    ledger: Ledger, path: Path
) -> None:
    writer_connection(ledger).execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match="locked"):
            ledger.transact(noted("lost")).result(WAIT_S)
        somebody.execute("ROLLBACK")
    assert ledger.transact(noted("kept")).result(WAIT_S).seq == 1


def test_a_ledger_that_was_changed_under_a_running_keyd_takes_no_more_entries(
    ledger: Ledger, path: Path
) -> None:
    ledger.transact(noted("first")).result(WAIT_S)
    ledger.transact(noted("second")).result(WAIT_S)
    with closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("DELETE FROM entries WHERE seq = 2")
    with pytest.raises(LedgerUnavailable, match="names entry 2"):
        ledger.transact(noted("third")).result(WAIT_S)


# --- opening and closing


def test_every_file_is_readable_by_its_owner_alone(path: Path, clock: Any) -> None:
    old = os.umask(0)
    try:
        with closing(Ledger.open(path, clock=clock)) as ledger:
            ledger.transact(noted()).result(WAIT_S)
            modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
    finally:
        os.umask(old)
    names = ["ledger.db", "ledger.db-shm", "ledger.db-wal", "ledger.db.lock"]
    assert modes == dict.fromkeys(names, 0o600)


def test_a_second_writer_is_refused_until_the_first_is_gone(ledger: Ledger, path: Path, clock: Any) -> None:
    with pytest.raises(LedgerError, match="in use by another keyd") as refused:
        Ledger.open(path, clock=clock)
    assert "osmoda-keyd" in refused.value.hint
    ledger.close()
    Ledger.open(path, clock=clock).close()


def test_a_reopened_ledger_goes_on_where_it_was(path: Path, clock: Any) -> None:
    for number in range(3):
        with closing(Ledger.open(path, clock=clock)) as ledger:
            assert ledger.transact(noted(str(number))).result(WAIT_S).seq == number + 1
    assert verify(path).entries == 3


def test_opening_looks_at_the_end_and_not_at_every_entry(path: Path, clock: Any) -> None:
    with closing(Ledger.open(path, clock=clock)) as ledger:
        for number in range(20):
            ledger.transact(noted(str(number)))
    with closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("UPDATE entries SET entry = 'changed' WHERE seq = 3")
    Ledger.open(path, clock=clock).close()
    assert not verify(path).ok


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("DELETE FROM entries WHERE seq = 2", "names entry 2"),
        ("DELETE FROM entries", "there are no entries"),
        ("DELETE FROM meta", "head is missing"),
        ("UPDATE meta SET head_hash = zeroblob(32)", "another hash"),
        ("UPDATE entries SET entry = replace(entry, 'two', 'ten') WHERE seq = 2", "does not match its hash"),
        ("INSERT INTO entries VALUES (3, '{}', zeroblob(32))", "last entry is 3"),
        ("CREATE TRIGGER quiet AFTER INSERT ON spend BEGIN DELETE FROM spend; END", "trigger quiet"),
        ("DROP INDEX payments_by_intent", "index payments_by_intent"),
        ("PRAGMA user_version = 2", "format 2"),
        ("PRAGMA application_id = 0", "not an osmoda ledger"),
    ],
)
def test_a_ledger_whose_end_or_form_is_not_sound_is_not_opened(
    path: Path, clock: Any, damage: str, words: str
) -> None:
    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(noted("one"))
        ledger.transact(noted("two"))
    with closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute(damage)
    for _ in range(2):  # and the lock of the failed attempt is gone
        with pytest.raises(LedgerError, match=words) as refused:
            Ledger.open(path, clock=clock)
        assert refused.value.hint


def test_an_emptied_ledger_is_not_taken_for_a_new_one(path: Path, clock: Any) -> None:
    Ledger.open(path, clock=clock).close()
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="empty"):
        Ledger.open(path, clock=clock)
    assert path.read_bytes() == b""


def test_the_journal_of_a_lost_ledger_is_not_played_into_a_new_one(path: Path, clock: Any) -> None:
    journal = Path(f"{path}-wal")
    journal.write_bytes(b"the last pages of another ledger")
    with pytest.raises(LedgerError, match="journal"):
        Ledger.open(path, clock=clock)
    assert not path.exists()
    journal.unlink()
    Ledger.open(path, clock=clock).close()


def test_what_a_crash_left_half_made_is_replaced(path: Path, clock: Any) -> None:
    Path(f"{path}.new").write_bytes(b"half")
    with closing(Ledger.open(path, clock=clock)) as ledger:
        assert ledger.head().seq == 0
    assert not Path(f"{path}.new").exists()


def test_somebody_elses_database_is_refused_and_left_alone(path: Path, clock: Any) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not an osmoda ledger"):
        Ledger.open(path, clock=clock)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path, clock: Any) -> None:
    path.write_text("dear diary" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger.open(path, clock=clock)


def test_a_missing_folder_is_an_error_with_a_hint(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(LedgerError, match="No such file") as refused:
        Ledger.open(tmp_path / "nowhere" / "ledger.db", clock=clock)
    assert "folder" in refused.value.hint


def test_a_path_may_hold_any_character(tmp_path: Path, clock: Any) -> None:
    odd = tmp_path / "a?b#c%20 é" / "ledger?mode=memory.db"
    odd.parent.mkdir()
    with closing(Ledger.open(odd, clock=clock)) as ledger:
        ledger.transact(noted()).result(WAIT_S)
    assert odd.exists()
    assert verify(odd).entries == 1


def test_closing_first_runs_what_was_handed_over(ledger: Ledger, path: Path) -> None:
    with held(ledger):
        futures = [ledger.transact(noted(str(number))) for number in range(10)]
        closing_ = threading.Thread(target=ledger.close)
        closing_.start()
    closing_.join(WAIT_S)
    assert [future.result(0).seq for future in futures] == list(range(1, 11))
    assert verify(path).entries == 10


def test_a_closed_ledger_says_so_and_may_be_closed_again(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.transact(noted()).result(WAIT_S)
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.head()


def test_who_reads_all_the_time_does_not_let_the_journal_grow_for_ever(
    path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite begins its journal anew only while nobody reads: otherwise it would fill the disk that payments need."""
    monkeypatch.setattr("ledger.store.MAX_JOURNAL", 300_000)

    def looked_at(db: sqlite3.Connection) -> None:
        """Payments go on meanwhile."""
        db.execute("SELECT count(*) FROM entries").fetchone()
        for _ in range(50):
            ledger.transact(noted("x" * 2000)).result(WAIT_S)

    sizes = []
    with closing(Ledger.open(path, clock=clock)) as ledger:
        for _ in range(12):
            ledger.shorten_journal()
            ledger.read(looked_at)
            sizes.append(os.stat(f"{path}-wal").st_size)
        assert max(sizes) < 3 * min(sizes)
        assert ledger.head().seq == 600
    assert verify(path).ok
