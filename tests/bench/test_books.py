"""Books that do not agree are seen, whichever side is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.books import Books

SOUND = Books(
    signed={"0x1": 1000, "0x2": 500},
    settled={"0x1", "0x2"},
    sales={"0x1": 1000, "0x2": 500},
    sold=2,
    counted=1500,
    problems=[],
)


def test_books_that_agree_have_no_drift() -> None:
    assert set(SOUND.drifts().values()) == {0}


@pytest.mark.parametrize(
    ("wrong", "drift"),
    [
        (replace(SOUND, sales=SOUND.sales | {"0x3": 0}, sold=3), "sold but not signed"),
        (
            replace(SOUND, signed=SOUND.signed | {"0x3": 0}, settled={"0x1", "0x2", "0x3"}),
            "signed but not sold",
        ),
        (replace(SOUND, sold=3), "nonces sold twice"),
        (replace(SOUND, settled={"0x1"}), "signed and never settled"),
        (replace(SOUND, sales={"0x1": 1000, "0x2": 501}), "atomic units, ledger against seller"),
        (replace(SOUND, counted=1499), "micro-USD, budget against ledger"),
        (replace(SOUND, problems=["entry 3: changed"]), "problems that `ledger verify` found"),
    ],
)
def test_each_disagreement_is_counted_under_its_own_name(wrong: Books, drift: str) -> None:
    assert {name for name, count in wrong.drifts().items() if count} == {drift}
