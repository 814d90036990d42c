"""One RPC server of one network, during one pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import batched
from typing import Any, Final

import structlog

from keyd.api import OpenPayment
from reconcile import chain
from reconcile.agreement import Word
from reconcile.calls import Call, RpcError
from reconcile.chain import Block
from reconcile.config import NetworkSettings
from reconcile.faults import NodeFault
from reconcile.rpc import MAX_BATCH, JsonRpc
from reconcile.timeline import Timeline

CLOCK_MARGIN_S: Final = 120
"""keyd's clock and the chain's may differ by this much: an event is looked for this much earlier and later."""
SEARCH_TIMEOUT_S: Final = 60.0
"""For the event of one payment. It is a pointer for people; the proof does not depend on it."""
MAX_HEADERS: Final = 64
"""For one end of a search. Regular block times need about five."""
MAX_LOG_CALLS: Final = 64
"""For one search. The widest window is fifteen minutes, 3600 blocks of the fastest chains in keyd's table."""

_log = structlog.get_logger("reconcile.node")


class Node:
    """A server is asked until its first fault; then it counts as silent until the next pass."""

    def __init__(self, rpc: JsonRpc, settings: NetworkSettings) -> None:
        self.name = rpc.name
        self._rpc = rpc
        self._settings = settings
        self._timeline: Timeline | None = None
        self._faulty = False
        self._searchable = True

    async def head(self) -> Block | None:
        """The block at which this server is asked, chosen once; None if it cannot be used."""
        if self._timeline is None and not self._faulty:
            try:
                self._timeline = Timeline(await self._choose_block())
            except NodeFault as fault:
                self._give_up(fault)
        return None if self._timeline is None or self._faulty else self._timeline.head

    async def words(self, payments: Sequence[OpenPayment]) -> dict[str, Word]:
        """What this server says of each payment, by payment id; those it does not answer for are missing."""
        head = await self.head()
        if head is None:
            return {}
        words: dict[str, Word] = {}
        try:
            for some in batched(payments, MAX_BATCH - 1):  # the header makes it a full batch
                for payment, used in zip(some, await self._states(some, head), strict=True):
                    if isinstance(used, bool):
                        words[payment.payment_id] = Word(self.name, head, used)
                    else:
                        _log.warning(
                            "reconcile.payment.unanswered",
                            payment=payment.payment_id,
                            server=self.name,
                            error=str(used),
                        )
        except NodeFault as fault:
            self._give_up(fault)
        return words

    async def transaction(self, payment: OpenPayment) -> str | None:
        """The transaction that used this authorization; None if it is not found, for whatever reason."""
        if self._timeline is None or self._faulty or not self._searchable:
            return None
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                return await self._search(payment, self._timeline)
        except (NodeFault, TimeoutError) as fault:
            self._searchable = False  # it would cost as many calls for the next payment
            error = str(fault) or f"no event within {SEARCH_TIMEOUT_S:g} s"
            _log.warning("reconcile.events.unavailable", server=self.name, error=error)
            return None

    async def _choose_block(self) -> Block:
        tag = self._settings.block
        chain_id, header = await self._rpc.ask([chain.chain_id(), chain.block_by(tag)])
        found = chain.parse_quantity(_result(chain_id))
        if found != self._settings.chain_id:
            raise NodeFault(f"it serves chain {found}, not {self._settings.network}")
        if header is None or isinstance(header, RpcError):
            # Another tag in its place would be a weaker proof than the administrator asked for.
            answer = header or "no block"
            raise NodeFault(f"it does not know block {tag!r} ({answer}); use another server, or set `block`")
        return chain.parse_block(header)

    async def _states(self, payments: Sequence[OpenPayment], head: Block) -> list[bool | NodeFault]:
        calls = [chain.authorization_state(payment, head.number) for payment in payments]
        *answers, header = await self._rpc.ask([*calls, chain.block_by(head.number)])
        # The states were asked for by height: if another block is there now, they may be another chain's.
        if chain.parse_block(_result(header), head.number) != head:
            raise NodeFault(f"block {head.number} was replaced while it was asked about")
        return [_state(answer) for answer in answers]

    async def _search(self, payment: OpenPayment, timeline: Timeline) -> str | None:
        begin, end = payment.signed_at - CLOCK_MARGIN_S, payment.valid_before + CLOCK_MARGIN_S
        for time in (begin, end):
            await self._narrow(timeline, time)
        first, last = timeline.not_after(begin), timeline.after(end)
        width = self._settings.log_range
        for _ in range(MAX_LOG_CALLS):
            upto = min(first + width - 1, last)
            answer = await self._ask(chain.authorization_used(payment, first, upto))
            if isinstance(answer, RpcError):  # "too many blocks" looks different from server to server
                width = (upto - first + 1) // 2
                if width == 0:
                    raise NodeFault(f"it gives no logs ({answer})")
                continue
            transaction = chain.parse_events(answer, payment, first, upto)
            if transaction is not None or upto == last:
                return transaction
            first = upto + 1
        return None

    async def _narrow(self, timeline: Timeline, time: int) -> None:
        """Learns the headers around `time` (Unix seconds)."""
        for turn in range(MAX_HEADERS):
            number = timeline.next_to_ask(time, turn)
            if number is None:
                return
            timeline.add(chain.parse_block(_result(await self._ask(chain.block_by(number))), number))

    async def _ask(self, call: Call) -> Any:
        [answer] = await self._rpc.ask([call])
        return answer

    def _give_up(self, fault: NodeFault) -> None:
        self._faulty = True
        _log.warning(
            "reconcile.server.failed", network=self._settings.network, server=self.name, error=str(fault)
        )


def _result(answer: Any) -> Any:
    if isinstance(answer, RpcError):
        raise NodeFault(str(answer))
    return answer


def _state(answer: Any) -> bool | NodeFault:
    try:
        return chain.parse_bool(_result(answer))
    except NodeFault as fault:
        return fault
