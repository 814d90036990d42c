"""Payments as transactions of beancount (beancount.github.io): text only, no account is more than two levels deep.

What is not proven by the chain is flagged `!`. A payment that was released moved nothing and becomes a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

EXPENSES: Final = "Expenses:X402"
_WALLETS: Final = "Assets:X402:"
_COMMODITY: Final = re.compile(r"[A-Z][A-Z0-9'._-]{0,22}[A-Z0-9]")


def opening(wallets: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Directives that open the accounts: of each wallet on the day of its first payment, YYYY-MM-DD."""
    opened = sorted({(day, _account(label)) for label, day in wallets})
    if opened:
        yield f"{opened[0][0]} open {EXPENSES}\n"
    seen = set()
    for day, account in opened:
        if account not in seen:
            yield f"{day} open {account}\n"
        seen.add(account)


def transaction(
    *,
    day: str,
    payee: str,
    narration: str,
    sure: bool,
    released: bool,
    wallet: str,
    amount: str | None,
    symbol: str | None,
    usd: str,
    metadata: Mapping[str, str | None],
) -> str:
    """One payment. `amount` in whole tokens of `symbol`, at a price of `usd` in all; without them, in USD."""
    if released:
        return f"; {day} {_line(payee)}: payment {_line(metadata['payment_id'] or '')} was released, nothing was paid\n"
    commodity = (symbol or "").upper()
    known = amount is not None and _COMMODITY.fullmatch(commodity) is not None
    units, price = (f"{amount} {commodity}", f" @@ {usd} USD") if known else (f"{usd} USD", "")
    lines = [f"{day} {'*' if sure else '!'} {_quoted(payee)} {_quoted(narration)}"]
    lines += [f"  {name}: {_quoted(value)}" for name, value in metadata.items() if value is not None]
    lines += [f"  {EXPENSES}  {units}{price}", f"  {_account(wallet)}  -{units}{price}"]
    return "\n".join(("", *lines, ""))


def _account(label: str) -> str:
    """A wallet's account: components begin with a capital letter and hold letters, digits and dashes."""
    return _WALLETS + "W-" + re.sub(r"[^A-Za-z0-9-]", "-", label)


def _quoted(text: str) -> str:
    return '"' + _line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _line(text: str) -> str:
    """Nothing that a seller wrote begins a new line, and so a new directive."""
    return "".join(char if char.isprintable() else " " for char in text)
