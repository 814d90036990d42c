"""`kill -9` at any moment keeps a ledger that verifies and holds every entry that was acknowledged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.verify import verify

ROUNDS = 30
THREADS = 4

_WRITER = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ledger import Ledger

ledger = Ledger.open(Path(sys.argv[2]), clock=lambda: time.time_ns() // 1000)

def write():
    while True:
        entry = ledger.transact(lambda tx: tx.append("test.noted", "test", {"padding": "x" * 500})).result()
        os.write(1, b"%d %s\\n" % (entry.seq, entry.hash.hex().encode()))  # one write: lines stay whole

for _ in range(int(sys.argv[3])):
    threading.Thread(target=write).start()
"""


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    package = Path(__file__).parents[2]
    command = [sys.executable, "-c", _WRITER, str(package), str(path), str(THREADS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def acknowledged_until_killed(path: Path, moments: random.Random) -> dict[int, str]:
    """Run the writer, kill it a random moment after its first acknowledgement, return what it acknowledged."""
    with writer(path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(moments.uniform(0, 0.03))  # not to await something: the moment is the test's input
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).decode().splitlines()
    return {int(seq): hash_ for seq, hash_ in map(str.split, lines)}


@pytest.mark.slow
def test_a_killed_writer_leaves_every_acknowledged_entry(path: Path) -> None:
    moments = random.Random(402)
    acknowledged: dict[int, str] = {}
    for _ in range(ROUNDS):
        fresh = acknowledged_until_killed(path, moments)
        assert fresh
        acknowledged |= fresh
        verdict = verify(path)  # as the kill left it, with the journal not yet played back
        assert verdict.problems == []
        with closing(Ledger.open(path, clock=lambda: 0)) as ledger:  # the restart
            kept = {entry.seq: entry.hash.hex() for entry in ledger.entries(limit=10**9, after=0)}
        assert verdict.entries == len(kept)
        assert acknowledged.items() <= kept.items()


@pytest.mark.slow
def test_a_writer_killed_while_it_makes_the_ledger_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    moments = random.Random(402)
    for number in range(ROUNDS):
        path = tmp_path / str(number) / "ledger.db"
        path.parent.mkdir()
        with writer(path) as process:
            while not Path(f"{path}.lock").exists():  # the first thing it does
                assert process.poll() is None
            time.sleep(moments.uniform(0, 0.01))
            process.send_signal(signal.SIGKILL)
        if path.exists():
            assert verify(path).problems == []
        Ledger.open(path, clock=lambda: 0).close()
        assert verify(path).problems == []
