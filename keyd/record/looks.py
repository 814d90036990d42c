"""Long looks at the record: what people and agents ask, and what takes seconds once the record is long.

Payments go on meanwhile. One look is taken after the other, in a thread of their own, and one of each user waits: who
asks without end keeps neither payments nor others from their answers.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from keyd.peer import Peer
from ledger.log import Ledger


class Looks:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="looks")
        # By uid; never emptied, because those with roles are few.
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take[**P, T](
        self, peer: Peer, view: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """What `view` finds. Raises what it raises."""
        async with self._turns[peer.uid]:
            look = partial(self._look, partial(view, *arguments, **named))
            return await asyncio.get_running_loop().run_in_executor(self._thread, look)

    def _look[T](self, view: Callable[[], T]) -> T:
        self._ledger.shorten_journal()  # now: nobody else looks
        return view()
