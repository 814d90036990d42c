"""Payments as transactions of beancount (beancount.github.io): text only, no account is more than two levels deep.

What is not proven by the chain is flagged `!`. A payment that was released moved nothing and becomes a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger.accounts import EXPENSES, Transaction, account, line


def opening(wallets: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Directives that open the accounts: of each wallet on the day of its first payment, YYYY-MM-DD."""
    opened = sorted({(day, account(label)) for label, day in wallets})
    if opened:
        yield f"{opened[0][0]} open {EXPENSES}\n"
    seen = set()
    for day, name in opened:
        if name not in seen:
            yield f"{day} open {name}\n"
        seen.add(name)


def transaction(paid: Transaction) -> str:
    if paid.released:
        return f"; {paid.note()}\n"
    commodity = paid.commodity
    units, price = (
        (f"{paid.amount} {commodity}", f" @@ {paid.usd} USD") if commodity else (f"{paid.usd} USD", "")
    )
    lines = [f"{paid.day} {'*' if paid.sure else '!'} {_quoted(paid.payee)} {_quoted(paid.narration)}"]
    lines += [f"  {name}: {_quoted(value)}" for name, value in paid.metadata.items() if value is not None]
    lines += [f"  {EXPENSES}  {units}{price}", f"  {account(paid.wallet)}  -{units}{price}"]
    return "\n".join(("", *lines, ""))


def _quoted(text: str) -> str:
    return '"' + line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
