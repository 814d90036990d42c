"""Two sets of books after a run: what the ledger holds, and what the seller sold."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import aiohttp

from keyd import api
from keyd.client import KeydClient

OUTCOMES_S = 30.0
"""egress reports a payment's outcome after the program has its answer."""
_PAGE = 1000
_EPOCH_DAY = "2020-01-01"


@dataclass(frozen=True)
class Books:
    """Nonces and atomic units, by ledger and by seller."""

    signed: dict[str, int]
    settled: set[str]
    sales: dict[str, int]
    sold: int
    counted: int
    """Micro-USD that keyd's budget counts as spent; the token has six decimals and counts for one USD."""
    problems: list[str]
    """What `ledger verify` found."""

    def drifts(self) -> dict[str, int]:
        """What does not agree; all of it 0 if the two sides do."""
        return {
            "sold but not signed": len(self.sales.keys() - self.signed.keys()),
            "signed but not sold": len(self.signed.keys() - self.sales.keys()),
            "nonces sold twice": self.sold - len(self.sales),
            "signed and never settled": len(self.signed.keys() - self.settled),
            "atomic units, ledger against seller": abs(sum(self.signed.values()) - sum(self.sales.values())),
            "micro-USD, budget against ledger": abs(self.counted - sum(self.signed.values())),
            "problems that `ledger verify` found": len(self.problems),
        }


async def compare_books(seller: str, socket: Path) -> Books:
    async with aiohttp.ClientSession() as session, session.get(f"{seller}/books") as response:
        sales = await response.json()
    async with KeydClient(str(socket), timeout_s=300) as keyd:
        signed, settled = await _read_ledger(keyd)
        spent = await keyd.spend(by=api.SpendBy.DOMAIN, since=_EPOCH_DAY)
        verdict = await keyd.ledger_verify()
    return Books(
        signed=signed,
        settled=settled,
        sales={sale["nonce"]: int(sale["value"]) for sale in sales},
        sold=len(sales),
        counted=int(Decimal(spent.total).scaleb(6)),
        problems=verdict.problems,
    )


async def _read_ledger(keyd: KeydClient) -> tuple[dict[str, int], set[str]]:
    """Atomic units by nonce of what was signed, and the nonces of what is settled, once each has its outcome."""
    signed: dict[str, int] = {}
    nonces: dict[str, str] = {}
    settled: set[str] = set()
    after, deadline = 0, time.monotonic() + OUTCOMES_S
    while True:
        entries = (await keyd.ledger_entries(limit=_PAGE, after=after)).entries
        for entry in entries:
            after = entry.seq
            if entry.type == "x402.payment.signed":
                authorization = entry.data["authorization"]
                nonces[entry.data["payment_id"]] = authorization["nonce"]
                signed[authorization["nonce"]] = int(authorization["value"])
            elif entry.type == "x402.payment.settled":
                settled.add(nonces[entry.data["payment_id"]])
        if not entries:
            if len(settled) == len(signed) or time.monotonic() > deadline:
                return signed, settled
            await asyncio.sleep(0.1)
