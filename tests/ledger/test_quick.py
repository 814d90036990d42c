"""The check in bulk says yes to sound ledgers alone; whatever the careful one would name makes it doubt."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger, Transaction, quick
from ledger.chain import GENESIS, Head, link
from ledger.verify import _attached, verify

COUNT = 40


@pytest.fixture
def written(path: Path, clock: Any, signed_data: Any) -> Path:
    """Forty payments with all kinds of outcomes, late ones, text beyond ASCII, and facts that come and go."""
    chance = random.Random(402)

    def step(tx: Transaction) -> None:
        for number in range(COUNT):
            facts = [{"kind": "k", "key": str(number % 7), "value": chance.choice([None, number])}]
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


@pytest.fixture(params=[3, 10**6], ids=["little memory", "enough memory"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "MAX_HELD", request.param)
    monkeypatch.setattr(quick, "BATCH", 7)


@pytest.mark.usefixtures("memory")
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
    "nested too deep": lambda entry: entry.replace('"note":""', '"note":' + "[" * 70 + "]" * 70),
}  # fmt: skip


@pytest.mark.usefixtures("memory")
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


@pytest.mark.usefixtures("memory")
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
