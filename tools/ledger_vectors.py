"""Writes tests/vectors/ledger: ledgers as lines of an export, sound ones and damaged ones, with what a verifier must find.

    python -m tools.ledger_vectors           write them
    python -m tools.ledger_vectors --check   exit with 1 if they are not what would be written

docs/ledger-format.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger import Ledger, Transaction, chain, jsonl, note
from ledger.chain import GENESIS
from ledger.note import Checkpoint, Key

FOLDER: Final = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "ledger"
_START_US: Final = 1_795_226_434_123_456  # 2026-11-21T02:00:34.123456Z
_SIGNER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))  # for vectors, and for nothing else
KEY: Final = Key("osmoda-ledger/vectors", _SIGNER.public_key().public_bytes_raw())
_PROJECTION: Final = {
    "payments": "payment_id, state, delivered, proven, usd_micros, signed_seq, last_seq",
    "payment_entries": "payment_id, seq",
    "spend": "day, domain, caller, usd_micros, calls",
    "spend_total": "day, usd_micros, calls",
    "facts": "kind, key, value, seq",
    "meta": "head_seq, latest_day",
}

type Vector = dict[str, Any]


def vectors() -> dict[str, Vector]:
    """Name → vector."""
    lines, projection = _sound()
    head = _head(lines)
    kept = {"kept": [_note(lines, 5), _note(lines, len(lines))], "key": str(KEY)}
    middle = 7  # a signed payment

    def damaged(what: str, lines: list[str], first: int, **members: Any) -> Vector:
        return {"what": what, "lines": lines, **members, "verifies": False, "first": first}

    return {
        "good": {
            "what": "a sound ledger: payments with every outcome, facts, text beyond ASCII",
            "lines": lines,
            **kept,
            "verifies": True,
            "head": head,
            "projection": projection,
        },
        "empty": {"what": "no entry yet", "lines": [], "verifies": True, "head": {"seq": 0, "hash": "00" * 32}},
        "edited": damaged(
            "a recipient was changed in one entry",
            _changed(lines, middle, lambda entry: entry.replace("0x2096", "0xdead")),
            middle,
        ),
        "edited-with-hash": damaged(
            "an entry was changed and its own hash corrected: the next one does not follow from it",
            _rehashed(_changed(lines, middle, lambda entry: entry.replace("0x2096", "0xdead")), middle, middle),
            middle + 1,
        ),
        "deleted": damaged("one entry is missing", lines[: middle - 1] + lines[middle:], middle),
        "reordered": damaged(
            "two entries changed places",
            [*lines[: middle - 1], lines[middle], lines[middle - 1], *lines[middle + 1 :]],
            middle,
        ),
        "renumbered": damaged(
            "two entries changed places, and everything was hashed anew: each says another number than its place",
            _rehashed([*lines[: middle - 1], lines[middle], lines[middle - 1], *lines[middle + 1 :]], middle),
            middle,
        ),
        "torn": damaged("the last line ends in the middle", [*lines[:-1], lines[-1][:100]], len(lines)),
        "truncated": damaged(
            "the end was cut off, on the border of an entry: sound by itself, but not to whoever kept a head",
            lines[:-3],
            len(lines) - 2,
            **kept,
        ),
        "rewritten": damaged(
            "an entry was changed and everything after it hashed anew: sound by itself, but not to whoever kept heads",
            _rehashed(_changed(lines, 7, lambda entry: entry.replace("0x2096", "0xdead")), 7),
            6,  # the first head agrees up to entry 5: what differs is after it
            **kept,
        ),
        "not-sorted": damaged(
            "the members of an entry are not in canonical order",
            _rehashed(_changed(lines, middle, _unsorted), middle),
            middle,
        ),
        "white-space": damaged(
            "an entry holds a space between its members",
            _rehashed(_changed(lines, middle, lambda entry: entry.replace(',"type"', ', "type"')), middle),
            middle,
        ),
        "twice": damaged(
            "a member stands twice in an entry, which readers resolve differently",
            _rehashed(_changed(lines, 1, lambda entry: entry.replace('"data":{', '"data":{"version":"0",')), 1),
            1,
        ),
        "fraction": damaged(
            "a number is not an integer",
            _rehashed(_changed(lines, middle, lambda entry: entry.replace(f'"seq":{middle}', f'"seq":{middle}.0')), middle),
            middle,
        ),
        "released-twice": damaged(
            "the chain is whole, but an entry gives the same money back a second time",
            _appended(lines, lines[-2]),
            len(lines) + 1,
        ),
    }  # fmt: skip


def _sound() -> tuple[list[str], dict[str, list[list[Any]]]]:
    with tempfile.TemporaryDirectory() as folder:
        times = iter(range(_START_US, _START_US + 10**9, 100_000))
        with closing(Ledger.open(Path(folder) / "ledger", clock=lambda: next(times))) as ledger:
            for step in _STEPS:
                ledger.transact(step).result()
            rows = ledger.read(
                lambda db: db.execute("SELECT entry, hash FROM entries ORDER BY seq").fetchall()
            )
            projection = {name: ledger.read(_lists(name, columns)) for name, columns in _PROJECTION.items()}
    return [jsonl.line(encoded, hash_).rstrip("\n") for encoded, hash_ in rows], projection


def _lists(table: str, columns: str) -> Callable[[sqlite3.Connection], list[list[Any]]]:
    query = f"SELECT {columns} FROM {table} ORDER BY 1, 2"  # noqa: S608 - constants
    return lambda db: [list(row) for row in db.execute(query)]


def _append(type_: str, actor: str, data: dict[str, Any]) -> Callable[[Transaction], object]:
    return lambda tx: tx.append(type_, actor, data)


def _signed(number: int) -> Callable[[Transaction], object]:
    authorization = {
        "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
        "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "value": str(1000 * number),
        "validAfter": "0",
        "validBefore": "1795226494",
        "nonce": f"0x{number:064x}",
    }
    data = {
        "payment_id": f"{number:032x}",
        "intent_key": f"{number:064x}",
        "domain": "api.example.com",
        "caller": "uid:1000",
        "wallet": "default",
        "network": "eip155:84532",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "amount": str(1000 * number),
        "usd_micros": 1000 * number,
        "authorization": authorization,
        "signed_at": 1795226434,
        "valid_before": 1795226494,
        "day": "2026-11-21",
        "facts": [{"kind": "pin", "key": "api.example.com", "value": {"number": number}}],
    }
    return _append("x402.payment.signed", "uid:991", data)


def _outcome(what: str, number: int, **data: Any) -> Callable[[Transaction], object]:
    return _append(f"x402.payment.{what}", "uid:991", {"payment_id": f"{number:032x}", **data})


_STEPS: Final = [
    _append("keyd.started", "keyd", {"version": "0.1.0"}),
    _append("test.text", "uid:0", {"\ue000": "beyond", "😀": "\u0000\t\"\\/\u007fé€", "z": [True, None, {}, [], -1, 2**53 - 1]}),
    _signed(1),
    _outcome("settled", 1, delivered=True, transaction="0x" + "ab" * 32),
    _signed(2),
    _outcome("refused", 2),
    _signed(3),
    _outcome("unknown", 3),
    _signed(4),
    _outcome("settled", 4, delivered=True, proof={"used": True}),
    _append("test.fact", "uid:0", {"facts": [{"kind": "pin", "key": "api.example.com", "value": None}]}),
    _outcome("released", 2, proof={"used": False}),
    _append("keyd.stopped", "keyd", {}),
]  # fmt: skip


def _parts(line: str) -> tuple[str, bytes]:
    entry, _, hash_ = line.removeprefix('{"entry":').rpartition(',"hash":"')
    return entry, bytes.fromhex(hash_.removesuffix('"}'))


def _changed(lines: list[str], number: int, change: Callable[[str], str]) -> list[str]:
    entry, hash_ = _parts(lines[number - 1])
    changed = change(entry)
    assert changed != entry
    return [*lines[: number - 1], jsonl.line(changed, hash_).rstrip("\n"), *lines[number:]]


def _rehashed(lines: list[str], first: int, last: int | None = None) -> list[str]:
    """Hashes corrected from entry `first` up to entry `last`."""
    done = lines[: first - 1]
    for line in lines[first - 1 : last]:
        prev_hash = _parts(done[-1])[1] if done else GENESIS
        entry = _parts(line)[0]
        done.append(jsonl.line(entry, chain.link(prev_hash, entry.encode())).rstrip("\n"))
    return done + lines[len(done) :]


def _unsorted(entry: str) -> str:
    members = json.loads(entry)
    return json.dumps(dict(reversed(members.items())), separators=(",", ":"), ensure_ascii=False)


def _appended(lines: list[str], again: str) -> list[str]:
    number = len(lines)
    entry = _parts(again)[0].replace(f'"seq":{number - 1}', f'"seq":{number + 1}')
    return _rehashed([*lines, jsonl.line(entry, GENESIS).rstrip("\n")], number + 1)


def _head(lines: list[str]) -> dict[str, Any]:
    return {"seq": len(lines), "hash": _parts(lines[-1])[1].hex()}


def _note(lines: list[str], size: int) -> str:
    checkpoint = Checkpoint(KEY.name, size, _parts(lines[size - 1])[1])
    return note.signed(checkpoint, KEY, _SIGNER.sign(checkpoint.text().encode()))


def pages() -> dict[Path, str]:
    """File → content."""
    return {
        FOLDER / f"{name}.json": json.dumps(vector, indent=1, ensure_ascii=False) + "\n"
        for name, vector in vectors().items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="ledger_vectors")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.name} is not what tools/ledger_vectors.py writes", file=sys.stderr)
        else:
            path.write_text(pages()[path], "utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
