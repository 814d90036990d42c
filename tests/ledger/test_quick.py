"""The check in bulk says yes to sound ledgers alone; whatever the careful one would name makes it doubt."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import Ledger, Transaction, agreement, entry, jsonl, projection, quick, readings, schema, store
from ledger.chain import GENESIS, Head, check, link
from ledger.errors import EntryRefused
from ledger.verify import _attached, _Run, verify
from tools import ledger_vectors

COUNT = 40
VECTORS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted(ledger_vectors.FOLDER.glob("*.json"))
}


@pytest.fixture
def written(path: Path, clock: Any, signed_data: Any) -> Path:
    """Forty payments with all kinds of outcomes, late ones, text beyond ASCII, and facts that come and go."""
    chance = random.Random(402)

    def step(tx: Transaction) -> None:
        for number in range(COUNT):
            facts = [{"kind": "k", "key": str(number % 7), "value": chance.choice([None, number])}]
            facts += [{"kind": "quoted", "key": f'["{number % 3}","\\\\"]', "value": '"'}] * (number % 4 == 0)
            day = f"2026-11-{21 + number % 3}"
            tx.append(
                "x402.payment.signed",
                "uid:1",
                signed_data(number, day=day, facts=facts, note="é😀" * (number % 2)),
            )
            earlier = {"payment_id": f"{chance.randrange(number + 1):032x}"}
            kind = chance.choice(["settled", "refused", "unknown"])
            tx.append(f"x402.payment.{kind}", "uid:1", earlier | {"delivered": bool(number % 3)})
        for number in range(0, COUNT, 5):
            tx.append("x402.payment.released", "uid:1", {"payment_id": f"{number:032x}", "proof": {}})
        tx.append("x402.payment.settled", "uid:1", {"payment_id": f"{0:032x}", "proof": {}})

    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(step).result(20)
    return path


def is_sound(path: Path) -> Head | None:
    with _attached(path) as db:
        return quick.is_sound(db, lambda _: None)


def careful(path: Path) -> list[str]:
    """What the check entry by entry says: the definition of what is right."""
    run = _Run(lambda done, total: None)
    with _attached(path) as db:
        run.check_carefully(db)
    return run.problems


@pytest.fixture(params=["known forms", "no form is known"])
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are read off their text, or all parsed and folded one by one."""
    monkeypatch.setattr(quick, "BATCH", 7)
    if request.param == "no form is known":
        monkeypatch.setattr(readings, "MAX_LEARNT", 0)


@pytest.mark.usefixtures("forms")
def test_a_sound_ledger_is_sound(written: Path) -> None:
    with closing(sqlite3.connect(written)) as db:
        last = Head(*db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone())
    assert is_sound(written) == last
    assert verify(written).ok


def test_an_empty_ledger_is_sound(path: Path, clock: Any) -> None:
    Ledger.open(path, clock=clock).close()
    assert is_sound(path) == Head(0, GENESIS)


def replaced(path: Path, seq: int, change: Callable[[str], str]) -> None:
    """Entry `seq` changed, and everything from there on hashed anew: the chain is whole."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        rows = db.execute("SELECT seq, entry FROM entries WHERE seq >= ? ORDER BY seq", (seq,)).fetchall()
        before = db.execute("SELECT hash FROM entries WHERE seq = ?", (seq - 1,)).fetchone()
        prev_hash = before[0] if before else GENESIS
        for number, entry in rows:
            text = change(entry) if number == seq else entry
            assert number != seq or text != entry
            prev_hash = link(prev_hash, text.encode())
            db.execute("UPDATE entries SET entry = ?, hash = ? WHERE seq = ?", (text, prev_hash, number))
        db.execute("UPDATE meta SET head_hash = ?", (prev_hash,))


CHANGES: dict[str, Callable[[str], str]] = {
    "a space inside": lambda entry: entry.replace(',"seq"', ', "seq"'),
    "a space at the end": lambda entry: entry + " ",
    "a space at the beginning": lambda entry: " " + entry,
    "a member twice": lambda entry: entry.replace('{"actor"', '{"actor":"x","actor"', 1),
    "another order": lambda entry: '{"data"' + entry.partition(',"data"')[2].removesuffix("}") + ',"actor":"uid:1"}',
    "another escape": lambda entry: entry.replace("uid:1", "\\u0075id:1", 1),
    "a fraction": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":1000.0'),
    "an exponent": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":1e3'),
    "an integer too large": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":9007199254740993'),
    "another number": lambda entry: entry.replace('"seq":21', '"seq":22'),
    "another amount": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":1001'),
    "a payment signed before": lambda entry: entry.replace(f'"payment_id":"{10:032x}"', f'"payment_id":"{1:032x}"'),
    "no entry": lambda entry: "[]",
    "two entries in one": lambda entry: f"{entry},{entry}",
    "a member too many": lambda entry: entry[:-1] + ',"z":1}',
    "a text in place of a number": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":"1000"'),
    "a negative amount": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":-1000'),
    "a leading zero": lambda entry: entry.replace('"usd_micros":1000', '"usd_micros":01000'),
    "a control character": lambda entry: entry.replace("uid:1", "uid:\x1f1", 1),
    "an intent in capitals": lambda entry: entry.replace('"intent_key":"', '"intent_key":"A', 1),
    "no timestamp": lambda entry: entry.replace('"ts":"2', '"ts":"x', 1),
    "another type": lambda entry: entry.replace("payment.signed", "payment.settled"),
    "an authorization with a signature": lambda entry: entry.replace('"to":', '"signature":"","to":', 1),
    "nested too deep": lambda entry: entry.replace('"note":""', '"note":' + "[" * 70 + "]" * 70),
}  # fmt: skip


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_entry_in_a_whole_chain_is_doubted_and_named(
    written: Path, change: Callable[[str], str]
) -> None:
    replaced(written, 21, change)
    assert is_sound(written) is None
    assert not verify(written).ok


DAMAGE = [
    "UPDATE entries SET hash = zeroblob(32) WHERE seq = 9",
    "UPDATE entries SET entry = CAST(x'ff00' AS TEXT) WHERE seq = 9",
    "DELETE FROM entries WHERE seq = 9",
    "DELETE FROM entries WHERE seq > 80",
    "INSERT INTO entries VALUES (0, '{}', zeroblob(32))",
    "UPDATE meta SET latest_day = NULL",
    "UPDATE meta SET head_seq = head_seq - 1",
    "DELETE FROM meta",
    "UPDATE payments SET usd_micros = 0 WHERE signed_seq = 1",
    "UPDATE payments SET proven = 1 WHERE state = 'unknown'",
    "UPDATE payments SET payment_id = 'x' WHERE signed_seq = 1",
    "DELETE FROM payments WHERE signed_seq = 1",
    "INSERT INTO payments SELECT 'x', intent_key, state, delivered, proven, domain, caller, wallet, network, asset,"
    " amount, usd_micros, authorization, signed_at, valid_before, day, signed_seq, last_seq FROM payments LIMIT 1",
    "DELETE FROM payment_entries WHERE seq = 2",
    "INSERT INTO payment_entries VALUES ('x', 1)",
    "UPDATE spend SET calls = calls + 1",
    "DELETE FROM spend_total WHERE day = '2026-11-22'",
    "UPDATE facts SET seq = seq + 1",
    "DELETE FROM facts",
    "INSERT INTO facts VALUES ('k', 'x', '1', 1)",
]


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_doubted_and_named(written: Path, statement: str) -> None:
    with closing(sqlite3.connect(written, isolation_level=None)) as db:
        assert db.execute(statement).rowcount > 0
    assert is_sound(written) is None
    assert not verify(written).ok


def test_payments_in_another_order_are_looked_at_one_by_one(written: Path) -> None:
    """Nothing is wrong with that; it is only slower."""
    with closing(sqlite3.connect(written, isolation_level=None)) as db:
        db.execute("CREATE TEMP TABLE kept AS SELECT * FROM payments ORDER BY signed_seq DESC")
        db.execute("DELETE FROM payments")
        db.execute("INSERT INTO payments SELECT * FROM kept")
    assert is_sound(written) is None
    assert verify(written).ok


def test_a_ledger_in_which_too_much_waits_is_looked_at_one_by_one(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded; nothing is wrong with that either."""
    monkeypatch.setattr(agreement, "MAX_HELD", 3)
    assert is_sound(written) is None
    assert verify(written).ok


def test_sums_that_do_not_fit_in_memory_are_kept_on_disk(
    path: Path, clock: Any, signed_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "MAX_HELD", 3)
    with closing(Ledger.open(path, clock=clock)) as ledger:
        for number in range(20):
            data = signed_data(number, domain=f"{number % 10}.example")
            ledger.transact(lambda tx, data=data: tx.append("x402.payment.signed", "uid:1", data)).result(20)
    assert is_sound(path) is not None


def test_an_entry_that_is_known_by_its_form_is_not_parsed(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, decode = [], entry.decode
    monkeypatch.setattr(entry, "decode", lambda *args: parsed.append(args) or decode(*args))
    head = is_sound(written)
    assert head is not None
    unusual = COUNT // 2  # with text beyond ASCII
    assert unusual < len(parsed) < unusual + 15 < head.seq


def appended(path: Path, *more: tuple[str, dict[str, Any]]) -> Path:
    """The ledger with entries that only a forger writes: whole chain, and a projection that says the same as before."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        seq, prev_hash = db.execute("SELECT head_seq, head_hash FROM meta").fetchone()
        for type_, data in more:
            seq += 1
            encoded = entry.encode(seq, "2026-11-21T02:00:34.123456Z", type_, "uid:1", data)
            prev_hash = link(prev_hash, encoded)
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, encoded.decode(), prev_hash))
        db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", (seq, prev_hash))
    return path


def fact(value: object, key: str = "new") -> tuple[str, dict[str, Any]]:
    return "test.noted", {"facts": [{"kind": "k", "key": key, "value": value}]}


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize(
    ("more", "sound"),
    [
        pytest.param([fact(1), fact(None)], True, id="a fact that went again"),
        pytest.param([fact(1), fact(2), fact(None), fact(3), fact(None)], True, id="and came back and went"),
        pytest.param([fact(None)], True, id="a fact that never was goes"),
        pytest.param([fact(1)], False, id="a fact that the ledger lacks"),
        pytest.param([fact(1), fact(None), fact(1)], False, id="one that it lacks at last"),
        pytest.param([fact(None, "1")], False, id="a fact that the ledger still has"),
        pytest.param([fact("x", "1"), fact(None, "1")], False, id="one that was replaced first"),
        pytest.param(
            [("x402.payment.refused", {"payment_id": f"{1:032x}"})], False, id="an outcome that nobody knows"
        ),
        pytest.param([("x402.payment.refused", {"payment_id": f"{COUNT:032x}"})], False, id="of no payment"),
    ],
)
def test_entries_are_held_against_the_tables(
    written: Path, more: list[tuple[str, dict[str, Any]]], sound: bool
) -> None:
    appended(written, *more)
    assert (is_sound(written) is not None) == sound == (careful(written) == [])


@pytest.mark.usefixtures("forms")
def test_an_outcome_before_the_payment_is_doubted(written: Path) -> None:
    """Two neighbours change places, in a chain that is hashed anew and with the tables as they were."""
    with closing(sqlite3.connect(written, isolation_level=None)) as db:
        rows = [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY seq")]
        rows[0], rows[1] = rows[1].replace('"seq":2', '"seq":1'), rows[0].replace('"seq":1', '"seq":2')
        chained(db, rows)
    assert is_sound(written) is None
    assert careful(written)


def copied(written: Path, folder: Path) -> Path:
    """A copy to be changed, without the journal of the one before."""
    for rest in ("", "-wal", "-shm"):
        (folder / f"copy{rest}").unlink(missing_ok=True)
    return Path(shutil.copy(written, folder / "copy"))


def chained(db: sqlite3.Connection, entries: list[str]) -> None:
    """These entries instead of the ledger's own."""
    prev_hash = GENESIS
    db.execute("BEGIN")
    db.execute("DELETE FROM entries")
    for seq, text in enumerate(entries, start=1):
        prev_hash = link(prev_hash, text.encode())
        db.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, text, prev_hash))
    db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", (len(entries), prev_hash))
    db.execute("COMMIT")


PIECES = st.sampled_from(
    ['"', "\\", "{", "}", "[", "]", ",", ":", "0", "1", "-", "e3", ".0", " ", "a", "null", "true", "é", "\n"]
) | st.sampled_from(['"z":1,', ',{"a":1}', "},{", '","', '\\"', "9007199254740993", '"delivered":true,'])
EDITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2), PIECES),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_whatever_is_done_to_an_entry_in_a_whole_chain_both_checks_say_the_same(
    written: Path, tmp_path: Path, edits: list[tuple[int, int, int, str]]
) -> None:
    """As somebody does it who can hash: the chain is right, and the tables are what they were."""
    copy = copied(written, tmp_path)
    with closing(sqlite3.connect(copy, isolation_level=None)) as db:
        entries = [row[0] for row in db.execute("SELECT entry FROM entries ORDER BY seq")]
        for which, place, length, piece in edits:
            text = entries[which % len(entries)]
            place %= len(text) + 1
            entries[which % len(entries)] = text[:place] + piece + text[place + length :]
        chained(db, entries)
    assert (is_sound(copy) is not None) == (careful(copy) == [])


def tables_of(path: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_done_to_the_tables_both_checks_say_the_same(
    written: Path, tmp_path: Path, data: st.DataObject
) -> None:
    copy = copied(written, tmp_path)
    tables = tables_of(copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as db:
        for _ in range(data.draw(st.integers(1, 2))):
            table = data.draw(st.sampled_from(sorted(tables)))
            column = data.draw(st.sampled_from(tables[table]))
            rows = db.execute(f"SELECT {column} FROM {table}").fetchall()
            if not rows:
                continue
            (value,), (other,) = data.draw(st.sampled_from(rows)), data.draw(st.sampled_from(rows))
            change = data.draw(
                st.sampled_from(
                    ["DELETE FROM {t} WHERE {c} IS ?1", "UPDATE {t} SET {c} = ?2 WHERE {c} IS ?1"]
                )
            )
            if isinstance(other, int):
                other += data.draw(st.integers(-1, 1))
            with suppress(sqlite3.IntegrityError):
                db.execute(change.format(t=table, c=column) + " AND ?2 IS ?2", (value, other))
    assert (is_sound(copy) is not None) == (careful(copy) == [])


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_both_checks_say_the_same_of_the_vectors(vector: dict[str, Any], tmp_path: Path) -> None:
    """Their entries in a file, with a projection of all that can be folded."""
    store.create(tmp_path / "ledger")
    (tmp_path / "export").write_text(
        "".join(f"{line}\n" for line in vector["lines"] if line.endswith("}")), "utf-8"
    )
    head = Head(0, GENESIS)
    with closing(sqlite3.connect(tmp_path / "ledger", isolation_level=None)) as db:
        for row, read, _ in check(jsonl.rows(tmp_path / "export")):
            db.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (row.seq, row.encoded.decode(), row.hash)
            )
            head = Head(row.seq, row.hash)
            if read is not None:
                with suppress(EntryRefused):
                    projection.fold(read, schema.SqlTables(db))
        db.execute("UPDATE meta SET head_seq = ?, head_hash = ?", head)
    problems = careful(tmp_path / "ledger")
    assert (is_sound(tmp_path / "ledger") is not None) == (problems == [])
    if vector["verifies"]:
        assert problems == []
