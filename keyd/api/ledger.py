"""Messages about the ledger."""

from __future__ import annotations

from typing import Any

from keyd.api.base import Hex32, Message


class LedgerEntry(Message):
    seq: int
    ts: str
    type: str
    actor: str
    data: dict[str, Any]
    hash: Hex32


class LedgerEntries(Message):
    """`GET /ledger/entries?limit=N[&after=SEQ]`: without `after` the newest N; always oldest first."""

    entries: list[LedgerEntry]


class LedgerHead(Message):
    seq: int
    """Number of entries; 0 for an empty ledger."""
    hash: Hex32


class LedgerVerdict(Message):
    """`POST /ledger/verify`: chain and projection, checked from the first entry."""

    ok: bool
    entries: int
    head: Hex32
    problems: list[str]
    """In words, first problem first; empty when ok."""
