"""Heads that somebody kept: signed notes, an export, or number and hash as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from ledger import jsonl, note
from ledger.chain import Head
from ledger.errors import LedgerError, NoteRefused
from ledger.note import Key

_HEAD: Final = re.compile(r"\s*(?:head: *)?(0|[1-9][0-9]{0,17})[: ]([0-9a-f]{64})\s*")
_HINT: Final = "Give a file of signed heads, an export in JSONL, or NUMBER:HASH as `verify` prints it."


def heads(arguments: Iterable[str], key: Key | None = None) -> list[Head]:
    """The heads that `arguments` name, ascending. With a `key` only notes signed by it count.

    Raises LedgerError: one of them is none, or two contradict each other; then whoever signed them showed
    different people different histories.
    """
    found = sorted(head for argument in arguments for head in _heads_of(argument, key))
    for one, other in pairwise(found):
        if one.seq == other.seq and one.hash != other.hash:
            raise LedgerError(
                f"two heads of {one.seq} entries contradict each other: {one.hash.hex()} and {other.hash.hex()}",
                "They cannot be of one ledger. If both are signed, the signer signed two histories: keep both.",
            )
    return list(dict.fromkeys(found))


def _heads_of(argument: str, key: Key | None) -> Iterator[Head]:
    if match := _HEAD.fullmatch(argument):
        if key is not None:
            raise LedgerError(
                f"{argument.strip()} carries no signature", "Leave out the key, or give a note."
            )
        yield Head(int(match[1]), bytes.fromhex(match[2]))
        return
    path = Path(argument)
    if path.is_file() and jsonl.looks_like(path):
        if key is not None:
            raise LedgerError(f"{argument} is an export and carries no signature", "Leave out the key.")
        yield from (Head(row.seq, row.hash) for row in jsonl.rows(path))
        return
    try:
        content = path.read_bytes()
        text = note.whole_lines(content)
    except (OSError, ValueError) as error:
        raise LedgerError(f"cannot read a head from {argument}: {error}", _HINT) from error
    notes, rest = note.split(text)
    if not notes:
        raise LedgerError(f"{argument} holds no signed note", _HINT)
    torn = rest.strip() or len(text.encode()) < len(content)
    if torn and len(notes) == 1:  # after several, a note that was torn when the machine died
        raise LedgerError(f"{argument} holds more than a signed note", _HINT)
    try:
        yield from (note.read(signed, key).head for signed in notes)
    except NoteRefused as error:
        raise LedgerError(f"{argument}: {error}", _HINT) from error
