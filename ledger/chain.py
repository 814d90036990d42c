"""The hash chain: each entry's hash covers its canonical bytes and the hash before it. Pure functions.

Whoever knows the newest hash can tell whether any earlier entry was changed, removed or moved. Whoever
does not, cannot: see "What the chain does not prove" in docs/ledger-format.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from ledger import entry
from ledger.entry import Entry
from ledger.errors import CanonicalError

DOMAIN: Final = b"osmoda-ledger/v1\n"
"""Starts every preimage, so that a hash of this ledger is a hash of nothing else."""
GENESIS: Final = bytes(32)
"""Stands before the first entry."""
_MAX_CANDIDATES: Final = 8  # hashes to try after damage: two swapped entries need four


class Head(NamedTuple):
    """The newest entry's place and hash: (0, GENESIS) of an empty ledger."""

    seq: int
    hash: bytes


class Row(NamedTuple):
    """An entry as stored."""

    seq: int
    encoded: bytes
    hash: bytes


class Finding(NamedTuple):
    """What the check says about one row: the entry, if it can be read, and the problems in words."""

    row: Row
    entry: Entry | None
    problems: list[str]


def link(prev_hash: bytes, encoded: bytes) -> bytes:
    """Hash of an entry with the canonical bytes `encoded` that follows the entry with `prev_hash`."""
    return hashlib.sha256(DOMAIN + prev_hash + encoded).digest()


def check(rows: Iterable[Row]) -> Iterator[Finding]:
    """Check `rows`, in ascending `seq`, as a whole ledger from its first entry.

    After damage the check goes on from whichever hash the next entry was really built on, so that one
    changed entry is one problem and not one for every entry behind it.
    """
    expected = 1
    candidates: list[bytes] = [GENESIS]  # hashes the next entry may have been built on; none: unknown
    for row in rows:
        problems = []
        if row.seq > expected:
            problems.append(missing(expected, row.seq - 1))
            candidates = []  # the hash before this entry is lost with the entry
        built_on = [link(candidate, row.encoded) for candidate in candidates]
        parsed, problem = _judge(row, linked=not candidates or row.hash in built_on)
        problems += [problem] if problem else []
        candidates = [row.hash, *candidates, *built_on][:_MAX_CANDIDATES] if problems else [row.hash]
        expected = max(expected, row.seq + 1)
        yield Finding(row, parsed, problems)


def missing(first: int, last: int) -> str:
    """The words for a gap in the sequence."""
    return f"entry {first}: missing" if first == last else f"entries {first} to {last}: missing"


def _judge(row: Row, *, linked: bool) -> tuple[Entry | None, str | None]:
    """The entry in `row`, if it can be read, and the one problem that says most about it."""
    parsed: Entry | None = None
    complaint = None
    try:
        parsed = entry.decode(row.encoded, row.hash)
    except CanonicalError as error:
        complaint = f"entry {row.seq}: {error}"
    if row.seq < 1:
        return parsed, f"entry {row.seq}: does not belong here, the first entry is 1"
    if parsed is not None and parsed.seq != row.seq:
        return parsed, f"entry {row.seq}: holds entry {parsed.seq}: entries were moved"
    if not linked:
        return parsed, f"entry {row.seq}: data changed after it was written (it does not match its hash)"
    return parsed, complaint
