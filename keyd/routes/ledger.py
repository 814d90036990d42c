"""The endpoints of the ledger."""

from __future__ import annotations

import asyncio
from typing import Final

from keyd import api
from keyd.heads import Heads
from keyd.http.messages import Handlers, Request, Response, number, parse, respond
from keyd.views import ledger_entry
from ledger.chain import Head
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.verify import verify

MAX_ENTRIES: Final = 1000
"""Entries in one answer; a longer tail is asked for in pieces."""


class LedgerRoutes:
    def __init__(self, ledger: Ledger, heads: Heads | None) -> None:
        self._ledger = ledger
        self._heads = heads

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "ledger_entries": self.ledger_entries,
            "ledger_head": self.ledger_head,
            "ledger_checkpoint": self.ledger_checkpoint,
            "ledger_verify": self.ledger_verify,
        }

    async def ledger_entries(self, request: Request) -> Response:
        limit = number(request, "limit", default=50)
        after = number(request, "after", default=-1)
        entries = self._ledger.entries(limit=min(limit, MAX_ENTRIES), after=None if after < 0 else after)
        return respond(api.LedgerEntries(entries=[ledger_entry(entry) for entry in entries]))

    async def ledger_head(self, request: Request) -> Response:
        head = self._ledger.head()
        key, note = (None, None) if self._heads is None else (str(self._heads.key), self._heads.newest)
        return respond(api.LedgerHead(seq=head.seq, hash=head.hash.hex(), key=key, note=note))

    async def ledger_checkpoint(self, request: Request) -> Response:
        if self._heads is None:
            raise LedgerError("this keyd signs no heads")
        return respond(api.SignedHead(note=await self._heads.sign()))

    async def ledger_verify(self, request: Request) -> Response:
        asked = await parse(request, api.LedgerVerify, empty=b"{}")
        heads = sorted(Head(head.seq, bytes.fromhex(head.hash)) for head in asked.against)
        # In a thread: a long ledger takes seconds, and payments go on meanwhile.
        verdict = await asyncio.to_thread(verify, self._ledger.path, against=heads)
        return respond(
            api.LedgerVerdict(
                ok=verdict.ok,
                entries=verdict.entries,
                head=verdict.head.hash.hex(),
                problems=verdict.problems,
                agreed=verdict.agreed,
            )
        )
