"""docs/ledger-format.md is true: its example is recomputed from its text."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from ledger import Ledger, chain, note, schema
from ledger.note import Key
from ledger.projection import OUTCOMES, SIGNED
from ledger.verify import verify

DOCUMENT = (Path(__file__).parents[2] / "docs" / "ledger-format.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_document_computes_the_hashes_of_the_document() -> None:
    [program] = blocks("python")
    printed = StringIO()
    with redirect_stdout(printed):
        exec(program, {"entries": [block.encode() for block in blocks("json")]})
    assert len(blocks("hash")) == 2
    assert printed.getvalue().split() == blocks("hash")


def test_the_ledger_writes_the_entries_and_hashes_of_the_document(path: Path) -> None:
    entries = [json.loads(block) for block in blocks("json")]
    times = iter([1_795_226_434_123_456, 1_795_226_434_223_456])
    with closing(Ledger.open(path, clock=lambda: next(times))) as ledger:
        for entry in entries:
            ledger.transact(lambda tx, e=entry: tx.append(e["type"], e["actor"], e["data"])).result(20)
        stored = ledger.read(_rows("SELECT entry, hash FROM entries ORDER BY seq"))
        projection = [
            [name, *map(str, row)] for name, query in _PROJECTION.items() for row in ledger.read(_rows(query))
        ]
    assert [text for text, _ in stored] == blocks("json")
    assert [hash_.hex() for _, hash_ in stored] == blocks("hash")
    assert verify(path).ok
    [documented] = blocks("projection")
    assert projection == [line.split("    (")[0].split() for line in documented.splitlines()]


def test_the_signed_head_of_the_document_is_of_its_ledger_and_key() -> None:
    [signed], [vkey] = blocks("note"), blocks("vkey")
    head = note.read(signed + "\n", Key.parse(vkey)).head
    assert (head.seq, head.hash.hex()) == (2, blocks("hash")[-1])


def _rows(query: str) -> Callable[[sqlite3.Connection], list[tuple[object, ...]]]:
    return lambda db: db.execute(query).fetchall()


_PROJECTION = {
    "payments": "SELECT payment_id, state, delivered, usd_micros, signed_seq, last_seq FROM payments",
    "spend": "SELECT * FROM spend",
    "spend_total": "SELECT * FROM spend_total",
    "payment_entries": "SELECT * FROM payment_entries",
    "facts": "SELECT * FROM facts",
    "meta": "SELECT head_seq, latest_day FROM meta",
}


@pytest.mark.parametrize(
    "fact",
    [
        repr(chain.DOMAIN)[2:-1],
        f"{schema.APPLICATION_ID:#x}",
        f"`PRAGMA user_version` is {schema.FORMAT}.",
        *schema.PAYMENT_COLUMNS,
        *(
            f"`{kind.removeprefix('x402.payment')}`"
            for kind in OUTCOMES
            if not kind.endswith(("settled", "released"))
        ),
        f"`{SIGNED}`",
        "`x402.payment.released`",
    ],
)
def test_the_document_names_what_a_verifier_has_to_know(fact: str) -> None:
    assert fact in DOCUMENT
