"""A payment as plain-text accounting has it: an expense, taken from the wallet's account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

EXPENSES: Final = "Expenses:X402"
_WALLETS: Final = "Assets:X402:"
_COMMODITY: Final = re.compile(r"[A-Z][A-Z0-9'._-]{0,22}[A-Z0-9]")


class Transaction(NamedTuple):
    """One payment, in words that sellers and programs wrote."""

    day: str
    """UTC, YYYY-MM-DD."""
    payee: str
    narration: str
    sure: bool
    """Proven by the chain."""
    released: bool
    """Proven to be void: nothing was paid."""
    wallet: str
    amount: str | None
    """In whole tokens of `symbol`, at a price of `usd` in all; without both, it is booked in USD."""
    symbol: str | None
    usd: str
    metadata: Mapping[str, str | None]

    @property
    def commodity(self) -> str | None:
        """The token's, if its amount is known and its symbol can be one."""
        symbol = (self.symbol or "").upper()
        return symbol if self.amount is not None and _COMMODITY.fullmatch(symbol) else None

    def note(self) -> str:
        """Instead of a transaction, if it was released."""
        return f"{self.day} {line(self.payee)}: payment {line(self.metadata['payment_id'] or '')} was released, nothing was paid"


def account(wallet: str) -> str:
    """A wallet's account: components begin with a capital letter and hold letters, digits and dashes."""
    return _WALLETS + "W-" + re.sub(r"[^A-Za-z0-9-]", "-", wallet)


def line(text: str) -> str:
    """Nothing that a seller wrote begins a new line, and so a new directive."""
    return "".join(char if char.isprintable() else " " for char in text)
