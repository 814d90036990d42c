"""Whoever changes a ledger is told on, by the entry's number and in words."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import Head, Ledger, LedgerError, Transaction, jsonl, store
from ledger.__main__ import main
from ledger.chain import GENESIS, Row, check, link
from ledger.entry import encode
from ledger.verify import MAX_PROBLEMS, verify

WAIT_S = 20
COUNT = 9


@pytest.fixture
def written(path: Path, clock: Any, signed_data: Any) -> Path:
    """Nine entries, closed: 1 keyd.started, 2-5 four payments, 6 settled, 7 released, 8 and 9 notes."""

    def step(tx: Transaction) -> None:
        tx.append("keyd.started", "keyd", {"version": "0.1.0"})
        for number in range(1, 5):
            tx.append("x402.payment.signed", "uid:1000", signed_data(number, usd_micros=1000 * number))
        tx.append("x402.payment.settled", "uid:1000", {"payment_id": f"{1:032x}", "delivered": True})
        tx.append("x402.payment.released", "keyd", {"payment_id": f"{2:032x}", "proof": {}})
        tx.append("test.noted", "test", {"text": "eight", "facts": [{"kind": "k", "key": "a", "value": 1}]})
        tx.append("test.noted", "test", {"text": "nine"})

    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(step).result(WAIT_S)
    return path


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


SWAP_5_AND_6 = """
UPDATE entries SET seq = -5 WHERE seq = 5;
UPDATE entries SET seq = 5 WHERE seq = 6;
UPDATE entries SET seq = 6 WHERE seq = -5;
"""
SPEND = "spend of 2026-11-21 api.example.com uid:1000"


def test_an_untouched_ledger_verifies(written: Path) -> None:
    verdict = verify(written)
    assert verdict.problems == []
    assert verdict.ok
    assert verdict.entries == COUNT
    assert verdict.head.seq == COUNT
    with tampering(written) as db:
        assert db.execute("SELECT hash FROM entries WHERE seq = 9").fetchone() == (verdict.head.hash,)


def test_an_empty_ledger_verifies(path: Path, clock: Any) -> None:
    Ledger.open(path, clock=clock).close()
    verdict = verify(path)
    assert (verdict.ok, verdict.entries, verdict.head) == (True, 0, (0, GENESIS))


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        # the chain
        (
            "UPDATE entries SET entry = replace(entry, 'eight', 'acht') WHERE seq = 8",
            ["entry 8: data changed after it was written (it does not match its hash)"],
        ),
        (
            'UPDATE entries SET entry = replace(entry, \'"ts":"2026\', \'"ts":"2027\') WHERE seq = 1',
            ["entry 1: data changed after it was written (it does not match its hash)"],
        ),
        (
            "UPDATE entries SET hash = zeroblob(32) WHERE seq = 8",
            ["entry 8: data changed after it was written (it does not match its hash)"],
        ),
        (
            "UPDATE entries SET entry = 'nonsense' WHERE seq = 8",
            ["entry 8: data changed after it was written (it does not match its hash)"],
        ),
        (
            "UPDATE entries SET entry = CAST(x'ff00fe' AS TEXT) WHERE seq = 8",
            ["entry 8: data changed after it was written (it does not match its hash)"],
        ),
        (
            "UPDATE entries SET entry = entry || ' ' WHERE seq IN (1, 8)",
            [
                "entry 1: data changed after it was written (it does not match its hash)",
                "entry 8: data changed after it was written (it does not match its hash)",
            ],
        ),
        ("DELETE FROM entries WHERE seq = 1", ["entry 1: missing"]),
        ("DELETE FROM entries WHERE seq = 8", ["entry 8: missing"]),
        ("DELETE FROM entries WHERE seq = 9", ["entry 9: missing (the head names entry 9)"]),
        ("DELETE FROM entries WHERE seq > 7", ["entries 8 to 9: missing (the head names entry 9)"]),
        (
            SWAP_5_AND_6,
            ["entry 5: holds entry 6: entries were moved", "entry 6: holds entry 5: entries were moved"],
        ),
        (
            "INSERT INTO entries SELECT 10, entry, hash FROM entries WHERE seq = 9",
            [
                "entry 10: holds entry 9: entries were moved",
                "head: names entry 9, but there are entries up to 10",
            ],
        ),
        (
            "INSERT INTO entries SELECT 0, entry, hash FROM entries WHERE seq = 9",
            ["entry 0: does not belong here, the first entry is 1"],
        ),
        (  # payment 1 was signed by entry 2: its story would name that twice
            "UPDATE entries SET entry = replace(entry, '\"seq\":6', '\"seq\":2') WHERE seq = 6",
            ["entry 6: holds entry 2: entries were moved"],
        ),
        # the head
        ("UPDATE meta SET head_hash = zeroblob(32)", ["head: is not the hash of entry 9"]),
        ("UPDATE meta SET head_seq = 8", ["head: names entry 8, but there are entries up to 9"]),
        ("DELETE FROM meta", ["head: missing"]),
        # the projection
        (
            "UPDATE spend SET usd_micros = 5000",
            [f"projection: {SPEND}: usd_micros is 5000, the entries say 8000"],
        ),
        (
            "UPDATE spend SET usd_micros = 0, calls = 0",
            [
                f"projection: {SPEND}: usd_micros is 0, the entries say 8000",
                f"projection: {SPEND}: calls is 0, the entries say 4",
            ],
        ),
        ("DELETE FROM spend", [f"projection: {SPEND} is missing"]),
        (
            "INSERT INTO spend VALUES ('2026-11-22', 'api.example.com', 'uid:0', -5000, 0)",
            ["projection: spend of 2026-11-22 api.example.com uid:0 is not in the entries"],
        ),
        (
            "UPDATE spend_total SET usd_micros = 0",
            ["projection: spend_total of 2026-11-21: usd_micros is 0, the entries say 8000"],
        ),
        (
            "UPDATE payments SET state = 'released' WHERE signed_seq = 5",
            [f"projection: payments of {4:032x}: state is released, the entries say signed"],
        ),
        ("DELETE FROM payments WHERE signed_seq = 5", [f"projection: payments of {4:032x} is missing"]),
        (
            "UPDATE payments SET payment_id = upper(payment_id) || 'A' WHERE signed_seq = 5",
            [
                f"projection: payments of {4:032x} is missing",
                f"projection: payments of {4:032x}A is not in the entries",
            ],
        ),
        ("UPDATE meta SET latest_day = NULL", ["projection: latest_day is None, the entries say 2026-11-21"]),
        (
            "UPDATE meta SET latest_day = 'x\x1b[2J\u202e'",
            [r"projection: latest_day is x\x1b[2J\u202e, the entries say 2026-11-21"],
        ),
        (
            "UPDATE payments SET proven = 1 WHERE signed_seq = 5",
            [f"projection: payments of {4:032x}: proven is 1, the entries say 0"],
        ),
        (
            "DELETE FROM payment_entries WHERE seq = 6",
            [f"projection: payment_entries of {1:032x} 6 is missing"],
        ),
        (
            "INSERT INTO payment_entries VALUES ('x', 6)",
            ["projection: payment_entries of x 6 is not in the entries"],
        ),
        ("UPDATE facts SET value = '2'", ["projection: facts of k a: value is 2, the entries say 1"]),
        ("DELETE FROM facts", ["projection: facts of k a is missing"]),
        # the file
        (
            "CREATE TRIGGER quiet AFTER INSERT ON spend BEGIN DELETE FROM spend; END",
            ["file: its tables are not those of the format: trigger quiet"],
        ),
        (
            "DROP TABLE spend; CREATE VIEW spend AS SELECT 1",
            ["file: its tables are not those of the format: index spend_by_caller, table spend, view spend"],
        ),
    ],
)
def test_a_change_is_found_and_named(written: Path, damage: str, problems: list[str]) -> None:
    with tampering(written) as db:
        db.executescript(damage)
    verdict = verify(written)
    if any(problem.startswith("entr") for problem in problems):
        # the fold of changed entries differs as well: that comes after what was done to the entries
        found = [problem for problem in verdict.problems if not problem.startswith("projection:")]
        found = [problem for problem in found if "contradicts" not in problem]
    else:
        found = verdict.problems
    assert found == problems
    assert not verdict.ok


def test_an_amount_changed_in_an_entry_shows_in_the_sums_as_well(written: Path) -> None:
    with tampering(written) as db:
        db.execute(
            "UPDATE entries SET entry = replace(entry, '\"usd_micros\":4000', '\"usd_micros\":1') WHERE seq = 5"
        )
    assert verify(written).problems == [
        "entry 5: data changed after it was written (it does not match its hash)",
        f"projection: {SPEND}: usd_micros is 8000, the entries say 4001",
        "projection: spend_total of 2026-11-21: usd_micros is 8000, the entries say 4001",
        f"projection: payments of {4:032x}: usd_micros is 4000, the entries say 1",
    ]


def test_an_entry_that_contradicts_those_before_it_is_named_even_in_a_whole_chain(written: Path) -> None:
    """Written by somebody who can hash: the chain is whole, but what it says cannot be."""
    with tampering(written) as db:
        (prev,) = db.execute("SELECT hash FROM entries WHERE seq = 9").fetchone()
        data = {"payment_id": f"{2:032x}", "proof": {}}
        forged = encode(10, "2026-11-21T02:00:34.123456Z", "x402.payment.released", "keyd", data)
        db.execute("INSERT INTO entries VALUES (10, ?, ?)", (forged.decode(), link(prev, forged)))
        db.execute("UPDATE meta SET head_seq = 10, head_hash = ?", (link(prev, forged),))
    [problem] = verify(written).problems
    assert problem.startswith("entry 10: contradicts the entries before it: x402.payment.released: payment")


def test_an_entry_in_another_form_is_named_even_in_a_whole_chain(written: Path) -> None:
    with tampering(written) as db:
        (prev,) = db.execute("SELECT hash FROM entries WHERE seq = 9").fetchone()
        forged = b'{"seq": 10}'
        db.execute("INSERT INTO entries VALUES (10, ?, ?)", (forged.decode(), link(prev, forged)))
        db.execute("UPDATE meta SET head_seq = 10, head_hash = ?", (link(prev, forged),))
    assert verify(written).problems == ["entry 10: not canonical JSON (RFC 8785)"]


def test_a_rewritten_chain_is_invisible_without_a_head_kept_elsewhere(written: Path) -> None:
    """What docs/ledger-format.md says the chain does not prove: only the head differs."""
    kept = verify(written).head
    with tampering(written) as db:
        (prev,) = db.execute("SELECT hash FROM entries WHERE seq = 8").fetchone()
        rewritten = encode(9, "2026-11-21T02:00:34.123456Z", "test.noted", "test", {"text": "never"})
        db.execute(
            "UPDATE entries SET entry = ?, hash = ? WHERE seq = 9",
            (rewritten.decode(), link(prev, rewritten)),
        )
        db.execute("UPDATE meta SET head_hash = ?", (link(prev, rewritten),))
    verdict = verify(written)
    assert verdict.ok
    assert verdict.head != kept


def test_a_damaged_index_is_found(written: Path) -> None:
    """The rows are right, but keyd, asking by intent, would not find them."""
    with tampering(written) as db:
        db.execute("PRAGMA writable_schema = ON")
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'payments_by_intent'").fetchone()[
            0
        ]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with written.open("r+b") as file:
        file.seek((page - 1) * size)
        header = bytearray(file.read(8))
        assert header[0] == 10  # an index leaf
        header[3:5] = bytes(2)  # ... that now holds no cells
        file.seek((page - 1) * size)
        file.write(header)
    problems = verify(written).problems
    assert problems
    assert all(problem.startswith("file: ") for problem in problems)
    assert "payments_by_intent" in " ".join(problems)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_a_problem_in_words(written: Path, kept: float) -> None:
    os.truncate(written, int(written.stat().st_size * kept))
    verdict = verify(written)
    assert not verdict.ok
    assert verdict.problems[0].startswith("file: ")


def test_a_page_of_garbage_is_named_and_so_is_the_last_entry_before_it(path: Path, clock: Any) -> None:
    with closing(Ledger.open(path, clock=clock)) as ledger:
        for number in range(100):
            data = {"text": f"{number}" * 200}
            ledger.transact(lambda tx, data=data: tx.append("test.noted", "test", data)).result(WAIT_S)
    with path.open("r+b") as file:
        content = file.read()
        file.seek(content.index(b"50" * 200) // 4096 * 4096)
        file.write(b"\xee" * 4096)
    problems = verify(path).problems
    assert problems[0].startswith("file: ")
    last = re.fullmatch(r"file: database disk image is malformed \(found after entry (\d+)\)", problems[-1])
    assert last is not None
    assert 40 < int(last[1]) < 51


def test_many_problems_end_in_one_that_says_so(path: Path, clock: Any) -> None:
    with closing(Ledger.open(path, clock=clock)) as ledger:
        for _ in range(3 * MAX_PROBLEMS):
            ledger.transact(lambda tx: tx.append("test.noted", "test", {}))
    with tampering(path) as db:
        db.execute("UPDATE entries SET entry = 'x'")
    problems = verify(path).problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].startswith("and more")


# --- the pure check


def _chain(count: int) -> list[Row]:
    rows, prev = [], GENESIS
    for seq in range(1, count + 1):
        encoded = encode(seq, "2026-11-21T02:00:34.123456Z", "test.noted", "test", {"n": seq})
        prev = link(prev, encoded)
        rows.append(Row(seq, encoded, prev))
    return rows


def _problems(rows: list[Row]) -> list[str]:
    return [problem for finding in check(rows) for problem in finding.problems]


@given(st.integers(0, 12))
def test_a_whole_chain_has_no_problems(count: int) -> None:
    assert _problems(_chain(count)) == []


@given(st.integers(1, 12), st.data())
def test_one_flipped_bit_is_one_problem_of_that_entry(count: int, data: st.DataObject) -> None:
    rows = _chain(count)
    index = data.draw(st.integers(0, count - 1))
    column = data.draw(st.sampled_from(["encoded", "hash"]))
    value = bytearray(getattr(rows[index], column))
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    value[bit // 8] ^= 1 << bit % 8
    rows[index] = rows[index]._replace(**{column: bytes(value)})
    [problem] = _problems(rows)
    assert problem.startswith(f"entry {index + 1}: ")


@given(st.sets(st.integers(1, 12), max_size=11))
def test_each_removed_entry_is_named_unless_it_was_the_last(removed: set[int]) -> None:
    rows = [row for row in _chain(12) if row.seq not in removed]
    named: set[int] = set()
    for problem in _problems(rows):
        words = problem.removesuffix(": missing").split()
        named |= set(range(int(words[1]), int(words[-1]) + 1))
    assert named == {seq for seq in removed if seq < rows[-1].seq}


@given(st.permutations(range(6)))
def test_any_reordering_is_found(order: list[int]) -> None:
    chain = _chain(6)
    rows = [chain[source]._replace(seq=place + 1) for place, source in enumerate(order)]
    moved = {place + 1 for place, source in enumerate(order) if place != source}
    named = {int(problem.split()[1].rstrip(":")) for problem in _problems(rows) if "moved" in problem}
    assert named == moved


# --- beside a running keyd, on copies, as a command


def test_a_ledger_verifies_while_it_is_written(ledger: Ledger, path: Path) -> None:
    for number in range(5):
        for _ in range(20):
            ledger.transact(lambda tx: tx.append("test.noted", "test", {}))
        ledger.transact(lambda tx: tx.append("test.noted", "test", {})).result(WAIT_S)
        verdict = verify(path)
        assert verdict.problems == []
        assert verdict.entries == 21 * (number + 1)
    assert ledger.transact(lambda tx: tx.append("test.noted", "test", {})).result(WAIT_S).seq == 106


def _verify_without_privileges(path: Path) -> subprocess.CompletedProcess[str]:
    """The command, as somebody whom permissions bind; root as such may write anywhere."""
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    package = Path(__file__).parents[2]
    command = [*bound, sys.executable, "-c", _COMMAND, str(package), "verify", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


_COMMAND = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from ledger.__main__ import main; sys.exit(main())"
)


@pytest.fixture
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], None]]:
    folders: list[Path] = []

    def make(folder: Path) -> None:
        for item in folder.iterdir():
            item.chmod(0o444)
        folder.chmod(0o555)
        folders.append(folder)

    yield make
    for folder in folders:
        folder.chmod(0o700)


def test_a_read_only_copy_without_journal_verifies(written: Path, tmp_path: Path, read_only: Any) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(written, copy / "ledger.db")
    read_only(copy)
    done = _verify_without_privileges(copy / "ledger.db")
    assert (done.returncode, done.stdout.splitlines()[:1], done.stderr) == (
        0,
        ["ledger verified: 9 entries"],
        "",
    )
    assert [item.name for item in copy.iterdir()] == ["ledger.db"]


def test_a_read_only_copy_whose_journal_cannot_be_read_is_not_verified_without_it(
    ledger: Ledger, path: Path, tmp_path: Path, read_only: Any
) -> None:
    """It would verify as an older ledger, and nobody would see that entries are missing."""
    ledger.transact(lambda tx: tx.append("test.noted", "test", {})).result(WAIT_S)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(path.parent / name, copy / name)
    read_only(copy)
    done = _verify_without_privileges(copy / "ledger.db")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ledger: error: cannot read")


def test_the_command_says_that_a_ledger_is_verified(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(written)]) == 0
    out, err = capsys.readouterr()
    assert out == f"ledger verified: 9 entries\nhead: 9 {verify(written).head.hash.hex()}\n"
    assert err == ""


def test_the_command_names_the_problems(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tampering(written) as db:
        db.execute("DELETE FROM entries WHERE seq = 1")
    assert main(["verify", str(written)]) == 1
    out, err = capsys.readouterr()
    assert out == "entry 1: missing\nledger not verified: 8 entries\n"
    assert err == ""


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "other database", "other version"])
def test_the_command_says_what_it_cannot_read(
    written: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other"
    match kind:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("dear diary" * 100)
        case "empty":
            path.touch()
        case "other database":
            with tampering(path) as db:
                db.execute("CREATE TABLE mine (x)")
        case "other version":
            shutil.copy(written, path)
            with tampering(path) as db:
                db.execute("PRAGMA user_version = 2")
    assert main(["verify", str(path)]) == 2
    out, err = capsys.readouterr()
    error, hint = err.splitlines()
    assert error.startswith("ledger: error: cannot ")
    assert hint.startswith("ledger: hint: ")
    assert len(hint) > len("ledger: hint: ")
    assert out == ""


def test_verify_raises_for_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="No such file"):
        verify(tmp_path / "nowhere.db")


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_bytes_change_it_ends_in_words(
    written: Path, tmp_path: Path, clock: Any, data: st.DataObject
) -> None:
    """Never a traceback, and never `ok` with other entries than those that were written."""
    content = bytearray(written.read_bytes())
    with tampering(written) as db:
        entries = db.execute("SELECT * FROM entries").fetchall()
    used = [place for place, byte in enumerate(content) if byte]  # most of a small database is empty space
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(used))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(content)
    try:
        verdict = verify(damaged)
    except LedgerError:
        return
    if verdict.ok:
        with tampering(damaged) as db:
            assert db.execute("SELECT * FROM entries").fetchall() == entries
    with suppress(LedgerError):
        Ledger.open(damaged, clock=clock).close()


def test_sums_beyond_sixty_four_bits_are_a_problem_in_words(
    path: Path, tmp_path: Path, signed_data: Any
) -> None:
    """No keyd writes them; somebody who hands over a ledger may."""
    store.create(path)
    head, lines = Head(0, GENESIS), []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        for number in range(1, 1030):
            data = signed_data(number, usd_micros=2**53 - 1)
            encoded = encode(number, "2026-11-21T02:00:34.123456Z", "x402.payment.signed", "test", data)
            head = Head(number, link(head.hash, encoded))
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, encoded.decode(), head.hash))
            lines.append(jsonl.line(encoded.decode(), head.hash))
        db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", head)
        db.execute("COMMIT")
    assert not verify(path).ok
    export = tmp_path / "export.jsonl"
    export.write_text("".join(lines))
    assert "entry 1025: contradicts" in jsonl.verify(export).problems[0]
    with pytest.raises(LedgerError, match="entry 1025"):
        jsonl.restore(export, tmp_path / "imported")
