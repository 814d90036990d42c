"""Signed heads are handed on, each once, by the real keyd's ledger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from keyd import api
from keyd.client import KeydClient
from reconcile.config import HookSettings, ReconcileSettings
from reconcile.heads import hand_on_head
from reconcile.rpc import open_session


class Keyd:
    """Answers as keyd does; the test signs."""

    def __init__(self, *notes: str | None) -> None:
        self.notes = list(notes)

    async def ledger_head(self) -> api.LedgerHead:
        return api.LedgerHead(seq=9, hash="00" * 32, key="osmoda+1+AA", note=self.notes.pop(0))


async def hand_on(folder: Path, keyd: Any, exit_code: int = 0) -> bool:
    script = f"import sys; open({str(folder / 'kept')!r}, 'a').write(sys.stdin.read()); sys.exit({exit_code})"
    table: Any = {"network": "eip155:84532", "rpc": ["http://127.0.0.1:9"]}
    hook = HookSettings(command=(sys.executable, "-c", script))
    settings = ReconcileSettings(networks=(table,), state_dir=str(folder), heads=hook)
    async with open_session() as session:
        return await hand_on_head(settings, keyd, session)


def kept(folder: Path) -> list[str]:
    path = folder / "kept"
    return [json.loads(line)["note"] for line in path.read_text().splitlines()] if path.exists() else []


async def test_each_head_is_handed_on_once_as_it_was_signed(tmp_path: Path) -> None:
    one, two = "osmoda\n5\nAA=\n\n\u2014 osmoda AAAA\n", "osmoda\n7\nBB=\n\n\u2014 osmoda BBBB\n"
    keyd = Keyd(one, one, two)
    for _ in range(3):
        assert await hand_on(tmp_path, keyd)
    assert kept(tmp_path) == [one, two]


async def test_what_was_not_taken_is_handed_on_again(tmp_path: Path) -> None:
    note = "osmoda\n5\nAA=\n\n\u2014 osmoda AAAA\n"
    keyd = Keyd(note, note)
    assert not await hand_on(tmp_path, keyd, exit_code=1)
    assert await hand_on(tmp_path, keyd)
    assert kept(tmp_path) == [note, note]


async def test_a_ledger_without_a_signed_head_has_nothing_to_hand_on(tmp_path: Path) -> None:
    assert await hand_on(tmp_path, Keyd(None))
    assert kept(tmp_path) == []


async def test_a_keyd_that_does_not_answer_is_a_failure_and_no_fault(tmp_path: Path) -> None:
    async with KeydClient("/no/such/socket") as keyd:
        assert not await hand_on(tmp_path, keyd)
