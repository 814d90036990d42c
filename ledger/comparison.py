"""Is this the ledger that a head kept elsewhere was taken of? Finds what the chain alone cannot show."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ledger.chain import GENESIS, Head


class Comparison:
    """Heads, ascending by `seq`, against the stored hashes of a ledger whose chain was checked."""

    def __init__(self, heads: Iterable[Head]) -> None:
        self._heads = heads
        self.agreed = 0
        """Heads that the ledger has."""

    def with_ledger(self, db: sqlite3.Connection, last: Head) -> list[str]:
        """The first difference, in words; none if there is none. The ledger is attached to `db` as `ledger`.

        A head names everything up to its entry. So what differs lies after the last head that agrees, and the
        closer together the heads are, the closer its place is known.
        """
        known = 0
        for head in self._heads:
            if head.seq > last.seq:
                gone = _entries(last.seq + 1, head.seq)
                return [
                    f"{gone}: cut off (the head kept elsewhere names entry {head.seq}, the last is {last.seq})"
                ]
            if _hash(db, head.seq) != head.hash:
                return [
                    f"{_entries(known + 1, head.seq)}: rewritten (the head kept elsewhere names another hash)"
                ]
            known = head.seq
            self.agreed += 1
        return []


def _hash(db: sqlite3.Connection, seq: int) -> bytes | None:
    if seq == 0:
        return GENESIS
    row = db.execute("SELECT CAST(hash AS BLOB) FROM ledger.entries WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else bytes(row[0] or b"")


def _entries(first: int, last: int) -> str:
    if first == last:
        return f"entry {first}"
    return f"entries {first} to {last}" if first < last else f"entry {last}"
