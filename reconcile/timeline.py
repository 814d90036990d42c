"""Finds blocks by time with few headers: which one to look at next. Pure.

Block times are close to regular, so a linear estimate lands near the wanted block; halving in between bounds
the search on a chain where they are not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from reconcile.chain import Block
from reconcile.faults import NodeFault

SLACK: Final = 16
"""Blocks that a bracket may be wider than needed: two more headers would cost more than sixteen blocks of logs."""


class Timeline:
    """The headers of a chain that are known, up to `head`. Times are Unix seconds."""

    def __init__(self, head: Block) -> None:
        self.head = head
        self._numbers = [head.number]
        self._times = [head.timestamp]

    def add(self, block: Block) -> None:
        """Raises NodeFault if time would run backwards: then the headers cannot all be of one chain."""
        at = bisect_left(self._numbers, block.number)
        if at == len(self._numbers):
            raise NodeFault("a block above the head")
        known = self._numbers[at] == block.number
        if known and self._times[at] != block.timestamp:
            raise NodeFault(f"two times for block {block.number}")
        if block.timestamp > self._times[at] or (at > 0 and block.timestamp < self._times[at - 1]):
            raise NodeFault(f"the time of block {block.number} runs backwards")
        if not known:
            self._numbers.insert(at, block.number)
            self._times.insert(at, block.timestamp)

    def not_after(self, time: int) -> int:
        """The highest known block at or before `time`; block 0 if there is none."""
        at = bisect_right(self._times, time)
        return self._numbers[at - 1] if at else 0

    def after(self, time: int) -> int:
        """The lowest known block after `time`; the head if there is none."""
        at = bisect_right(self._times, time)
        return self._numbers[at] if at < len(self._numbers) else self.head.number

    def next_to_ask(self, time: int, turn: int) -> int | None:
        """The block whose header narrows `not_after(time)` and `after(time)` most; None if they are close enough.

        `turn` counts the questions of one search: estimates from below and above alternate with halving.
        """
        at = bisect_right(self._times, time)
        if at == len(self._numbers):
            return None
        high, high_time = self._numbers[at], self._times[at]
        if at == 0:
            # Nothing old enough is known: go back as many blocks as seconds, then twice as far each time.
            distance = max(high_time - time, self.head.number - high)
            return max(0, high - distance) if high > 0 else None
        low, low_time = self._numbers[at - 1], self._times[at - 1]
        if high - low <= SLACK:
            return None
        estimate = low + (high - low) * (time - low_time) // (high_time - low_time)
        aim = (estimate - SLACK // 2, estimate + SLACK // 2, (low + high) // 2)[turn % 3]
        return min(max(aim, low + 1), high - 1)
