"""Notes who may not speak to the socket, without letting them fill the ledger."""

from __future__ import annotations

from typing import Final

INTERVAL_US: Final = 60_000_000
"""One entry a minute and user: enough to see an attempt, too few to fill a disk with."""


class Strangers:
    """Refused peers by uid. Pure but for its own memory; times in microseconds."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}

    def note(self, uid: int, now_us: int) -> int | None:
        """The number of refusals since the last entry if one is due now, else None."""
        last, suppressed = self._seen.get(uid, (-INTERVAL_US, 0))
        if 0 <= now_us - last < INTERVAL_US:
            self._seen[uid] = (last, suppressed + 1)
            return None
        self._seen[uid] = (now_us, 0)
        return suppressed
