"""The ledger that benches are run on is one that anybody would accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger import Ledger, verify
from tools.grow_ledger import grow


def test_a_grown_ledger_verifies_and_can_be_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    grow(path, 12_000)  # more than one batch
    result = verify.verify(path)
    assert (result.ok, result.problems) == (True, [])
    assert result.entries >= 12_000
    ledger = Ledger.open(path, clock=lambda: 1_800_000_000_000_000)
    appended = ledger.transact(lambda tx: tx.append("keyd.started", "keyd", {})).result()
    ledger.close()
    assert appended.seq == result.entries + 1


def test_a_ledger_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        grow(path, 1)
    assert path.read_bytes() == b"mine"
