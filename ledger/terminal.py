"""What a person's terminal may be shown. The texts in a ledger are those of sellers and programs, and a ledger that was
changed can hold anything: an escape sequence could rewrite what is on the screen, a mark of direction turn it around.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TextIO


def harmless(text: str) -> str:
    """Lines stay lines; every other character that is not simply printed is written out, ESC as `\\x1b`."""
    return "\n".join(map(one_line, text.replace("\r\n", "\n").split("\n")))


def one_line(text: str) -> str:
    """The same, and a line end is written out, too: nobody adds a line to a message."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def write(out: TextIO, pieces: Iterable[str]) -> None:
    """`pieces` to standard output: as they are into a file or pipe, in UTF-8 whatever the locale; harmless on a terminal."""
    is_terminal = out.isatty()
    if isinstance(out, io.TextIOWrapper) and not is_terminal:
        out.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    for text in pieces:
        out.write(harmless(text) if is_terminal else text)
    out.flush()
