"""Messages about the ledger."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from keyd.api.base import Hex32, Message

MAX_HEADS: Final = 2000
"""Heads of one comparison: a fortnight of them, and what fits into a body. All of them are compared offline."""


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
    key: str | None = None
    """Whose signature heads carry: a verifier key of C2SP signed-note."""
    note: str | None = None
    """The newest signed head, a C2SP signed note; its size may be smaller than `seq`."""


class SignedHead(Message):
    """`POST /ledger/checkpoint`: a head of everything up to now."""

    note: str
    """A C2SP signed note."""


class LedgerHeadAt(Message):
    """A head that somebody kept: how many entries there were, and the hash of the last."""

    seq: Annotated[int, Field(ge=0)]
    hash: Hex32


class LedgerVerify(Message):
    """The body of `POST /ledger/verify`, if there is one."""

    against: Annotated[list[LedgerHeadAt], Field(default_factory=list, max_length=MAX_HEADS)]
    """Heads that the ledger must still have, in any order."""


class LedgerVerdict(Message):
    """`POST /ledger/verify`: chain and projection, checked from the first entry."""

    ok: bool
    entries: int
    head: Hex32
    problems: list[str]
    """In words, first problem first; empty when ok."""
    agreed: int = 0
    """Heads of `against` that the ledger has."""
