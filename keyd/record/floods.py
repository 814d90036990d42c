"""Keeps what strangers and programs can provoke from filling the ledger: the first ones are recorded, then counts.

Nothing here decides anything about money: a refusal that is not recorded is refused all the same.
"""

from __future__ import annotations

from typing import Final

WINDOW_US: Final = 60_000_000


class Flood:
    """At most `limit` occurrences of each key in a minute, then only their number. Times in microseconds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, tuple[int, int]] = {}
        self._suppressed: dict[str, int] = {}

    def note(self, key: str, now_us: int) -> int | None:
        """The number of occurrences left out since the last one that was due, if this one is due; else None."""
        began, count = self._seen.get(key, (now_us, 0))
        if not 0 <= now_us - began < WINDOW_US:
            began, count = now_us, 0
        self._seen[key] = (began, count + 1)
        if count >= self._limit:
            self._suppressed[key] = self._suppressed.get(key, 0) + 1
            return None
        return self._suppressed.pop(key, 0)
