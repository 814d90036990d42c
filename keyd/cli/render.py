"""How keyctl shows things: text from outside made harmless, money without floats, tables."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation


def escaped(text: str) -> str:
    """`text` with every unprintable character as `\\xNN` or `\\uNNNN`.

    Paths, seller texts and error messages come from strangers: an escape sequence could rewrite what the
    terminal shows, a newline could forge a line of keyctl's own output, and a bidirectional override could
    turn an address around.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def usd(amount: str) -> str:
    """A decimal string of the contract for people: "0.340000" is "$0.34", "0.0005" stays "$0.0005"."""
    try:
        value = Decimal(amount)
    except InvalidOperation:
        return escaped(amount)
    if not value.is_finite():
        return escaped(amount)
    whole, _, fraction = f"{abs(value):f}".partition(".")
    cents = fraction.rstrip("0").ljust(2, "0")
    return f"{'-' if value < 0 else ''}${whole}.{cents}"


def usd_of_micros(micros: int) -> str:
    """Integer micro-USD of a ledger entry for people: 1000 is "$0.001"."""
    return usd(str(Decimal(micros).scaleb(-6)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; `right` lists the columns aligned right."""
    lines = [[escaped(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )
