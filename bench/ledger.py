"""The ledger: entries appended by many at once, entries verified, and a signature at the end of a long record.

The long records have a million entries and ten million, which take some minutes to make, and 10 GB in the temporary
folder; OSMODA_BENCH_ENTRIES says other numbers, with commas between them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.harness import Comparison, Contender, Peer, Stage, at_least, at_most
from bench.signing import OneClient, sign_requests
from bench.stack import ROOT, keyd_with_wallet, start_and_stop
from demo.stack import Keyd
from ledger import Ledger, entry
from tools.grow_ledger import grow

WRITERS = 64
APPENDED = 2000
"""In a round of all writers together."""
SIGNATURES = 300
VERIFIED = 100_000
LONG = [int(n) for n in os.environ.get("OSMODA_BENCH_ENTRIES", "1000000,10000000").split(",")]
VERIFY = """
import gc, sys, time
from pathlib import Path
from ledger import verify
gc.disable()
began = time.process_time()
run = verify.verify(Path(sys.argv[1])) if sys.argv[2] == "bulk" else None
if run is None:
    checked = verify._Run(lambda done, total: None)
    with verify._attached(Path(sys.argv[1])) as db:
        checked.check_pages(db)
        checked.check_carefully(db)
    assert not checked.problems
    entries = checked.entries
else:
    assert run.ok
    entries = run.entries
print(entries / (time.process_time() - began))
"""
"""Prints entries per second of processor time: on one core, whatever else the machine does."""


def comparisons(stage: Stage) -> Iterator[Comparison]:
    yield _append(stage)
    record = stage.folder / "record"
    grow(record, VERIFIED)
    yield Comparison(
        f"verify {VERIFIED} entries, one core",
        "entries/s",
        Contender("in bulk", lambda: [_verified_per_second(record, "bulk")]),
        [Peer(Contender("entry by entry", lambda: [_verified_per_second(record, "carefully")]))],
        target=at_least(100_000),
        more_is_better=True,
        rounds=3,
    )
    for entries in LONG:
        yield from _long(stage, entries)


def _append(stage: Stage) -> Comparison:
    group = Ledger.open(stage.folder / "group", clock=lambda: time.time_ns() // 1000)
    stage.cleanup.callback(group.close)
    single = OneCommitEach(stage.folder / "single")
    stage.cleanup.callback(single.close)
    return Comparison(
        f"append, {WRITERS} writers",
        "entries/s",
        Contender("group commit", lambda: [_appended_per_second(group)]),
        [Peer(Contender("one commit for each entry", lambda: [single.per_second()]), at_least(10))],
        more_is_better=True,
    )


def _appended_per_second(ledger: Ledger) -> float:
    async def write(count: int) -> None:
        for _ in range(count):
            await asyncio.wrap_future(ledger.transact(lambda tx: tx.append("bench.noted", "bench", _DATA)))

    async def all_writers() -> None:
        await asyncio.gather(*(write(APPENDED // WRITERS) for _ in range(WRITERS)))

    began = time.perf_counter()
    asyncio.run(all_writers())
    return APPENDED // WRITERS * WRITERS / (time.perf_counter() - began)


class OneCommitEach:
    """The same chain in the same database with the same promise, but each entry has a commit, and so an fsync, of its own."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE entries (seq INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash BLOB NOT NULL) STRICT"
        )
        self._lock = threading.Lock()
        self._seq, self._hash = 0, bytes(32)

    def per_second(self) -> float:
        count = APPENDED // WRITERS // 4  # it takes long enough
        writers = [threading.Thread(target=self._write, args=(count,)) for _ in range(WRITERS)]
        began = time.perf_counter()
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        return count * WRITERS / (time.perf_counter() - began)

    def _write(self, count: int) -> None:
        for _ in range(count):
            with self._lock:
                ts = entry.timestamp(time.time_ns() // 1000)
                encoded = entry.encode(self._seq + 1, ts, "bench.noted", "bench", _DATA)
                self._seq += 1
                self._hash = hashlib.sha256(b"osmoda-ledger/v1\n" + self._hash + encoded).digest()
                row = self._seq, encoded.decode(), self._hash
                self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", row)

    def close(self) -> None:
        self._db.close()


_DATA = {"domain": "api.example.com", "caller": "uid:1000", "amount": "1000", "digest": "ab" * 32}


def _verified_per_second(record: Path, how: str) -> float:
    command = [sys.executable, "-c", VERIFY, str(record), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


def _long(stage: Stage, entries: int) -> Iterator[Comparison]:
    """Two keyds side by side, one of which has paid for months."""
    folder = stage.folder / f"long-{entries}"
    (folder / "keyd").mkdir(parents=True, mode=0o700)
    grow(folder / "keyd" / "ledger.sqlite3", entries)
    with (
        keyd_with_wallet(folder) as long,
        keyd_with_wallet(stage.folder / f"short-{entries}") as short,
        _signer(long) as pay,
        _signer(short) as pay_first,
    ):
        yield Comparison(
            f"decide, fsync and sign, 1 client, {entries:,} entries before",
            "ms",
            Contender("long ledger", pay),
            [Peer(Contender("empty ledger", pay_first), at_most(1.2))],
            target=at_most(5),
        )
    yield Comparison(
        f"start to READY, {entries:,} entries before",
        "s",
        Contender("long ledger", lambda: [start_and_stop(long)[0]]),
        [Peer(Contender("empty ledger", lambda: [start_and_stop(short)[0]]))],
        target=at_most(1),
        rounds=3,
    )
    shutil.rmtree(folder)


@contextmanager
def _signer(keyd: Keyd) -> Iterator[Callable[[], list[float]]]:
    with closing(OneClient(keyd.socket, sign_requests())) as client:
        yield lambda: list(client.latencies_ms(SIGNATURES))
