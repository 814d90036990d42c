"""Payments as transactions of ledger (ledger-cli.org), which hledger reads as well.

As in beancount, `!` is what the chain has not proven, and what was released is a comment. Unlike there, no text is
quoted: what would mean something to ledger is taken out of payees, and all other words stand in notes.
"""

from __future__ import annotations

import re

from ledger.accounts import EXPENSES, Transaction, account, line


def transaction(paid: Transaction) -> str:
    if paid.released:
        return f"; {_plain(paid.note())}\n"
    units, price = f"{paid.usd} USD", ""
    if paid.commodity:
        units, price = f'{paid.amount} "{paid.commodity}"', f" @@ {paid.usd} USD"
    lines = [f"{paid.day} {'*' if paid.sure else '!'} {_payee(paid.payee)}"]
    notes = {"purpose": paid.narration, **paid.metadata}
    lines += [f"    ; {name}: {_plain(value)}" for name, value in notes.items() if value]
    lines += [f"    {EXPENSES}  {units}{price}", f"    {account(paid.wallet)}  -{units}{price}"]
    return "\n".join(("", *lines, ""))


def _payee(text: str) -> str:
    """`(` would begin a code, `*` and `!` a state, `;` and `|` a note."""
    return re.sub(r"[;|]", "_", _plain(text)).lstrip("(*! ") or "unknown"


def _plain(text: str) -> str:
    """What follows a name and a colon in a note means nothing to ledger, as long as it is one line."""
    return " ".join(line(text).split())
