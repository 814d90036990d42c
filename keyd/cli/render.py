"""How keyctl shows things: text from outside made harmless, money without floats, times, tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
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
    """Integer micro-USD for people: 1000 is "$0.001"."""
    return usd(str(Decimal(micros).scaleb(-6)))


def count(number: int, what: str) -> str:
    """ "1 call", "2 calls"."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def moment(seconds: int) -> str:
    """Unix seconds for people, in UTC: "2026-11-21 02:00:34Z"."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (OverflowError, ValueError, OSError):  # a year that no calendar has; keyd itself never writes one
        return str(seconds)


def entry_moment(ts: str) -> str:
    """The time of a ledger entry for people: "2026-11-21T02:00:34.123456Z" is "2026-11-21 02:00:34Z"."""
    return f"{ts[:19].replace('T', ' ')}Z"


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


def listed(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values, a line each, the values aligned. Values are the caller's to escape: they may be styled."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)
