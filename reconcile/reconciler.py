"""One pass: what keyd wants to know, what the servers say, what keyd makes of it. Read `reconcile` from the top."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
import structlog

from keyd.api import ChainEvidence, OpenPayment
from keyd.client import KeydClient, KeydRefused
from reconcile.agreement import Agreed, Contradiction, Lagging, TooFew, Word, weigh
from reconcile.config import NetworkSettings, ReconcileSettings
from reconcile.node import CLOCK_MARGIN_S, Node
from reconcile.rpc import JsonRpc

_log = structlog.get_logger("reconcile")


@dataclass
class Summary:
    """How many payments came to which end in one pass."""

    settled: int = 0
    """The chain says used, and keyd recorded it."""
    released: int = 0
    """keyd took it as proven that this payment can never be settled."""
    open: int = 0
    """Nothing can be concluded yet."""
    unreachable: int = 0
    """Too few servers answered."""
    contradicted: int = 0
    """Servers contradict each other."""
    refused: int = 0
    """keyd did not take the evidence."""
    unconfigured: int = 0
    """No RPC server is configured for the network."""

    @property
    def failed(self) -> int:
        """Payments that could not be concluded because of a fault."""
        return self.unreachable + self.contradicted + self.refused

    def __str__(self) -> str:
        line = (
            f"reconciled: {self.settled} settled, {self.released} released, {self.open} open,"
            f" {self.unreachable} unreachable"
        )
        rare = {
            "contradicted": self.contradicted,
            "refused by keyd": self.refused,
            "with no RPC configured": self.unconfigured,
        }
        return line + "".join(f", {count} {what}" for what, count in rare.items() if count)


async def reconcile(settings: ReconcileSettings, keyd: KeydClient, session: aiohttp.ClientSession) -> Summary:
    """Asks about every open payment once. Raises KeydUnreachable, KeydRefused, KeydProtocolError; never for a server."""
    networks = {network.network: Network(network, session) for network in settings.networks}
    summary = Summary()
    async for payments in _open_payments(keyd):
        for name, group in _by_network(payments).items():
            if name not in networks:
                _log.warning("reconcile.network.unconfigured", network=name, payments=len(group))
                summary.unconfigured += len(group)
                continue
            findings = await networks[name].ask(group)
            for payment in group:
                await _conclude(keyd, networks[name], payment, findings.get(payment.payment_id), summary)
    return summary


class Network:
    """The servers of one network."""

    def __init__(self, settings: NetworkSettings, session: aiohttp.ClientSession) -> None:
        self.name = settings.network
        self.needed = settings.needed
        self._nodes = [
            Node(JsonRpc(session, url.get_secret_value(), timeout_s=settings.timeout_seconds), settings)
            for url in settings.rpc
        ]

    async def ask(self, payments: Sequence[OpenPayment]) -> dict[str, list[Word]]:
        """What the servers say, by payment id. Payments that no server could know of yet are missing."""
        heads = await asyncio.gather(*(node.head() for node in self._nodes))
        # At a block from before it was signed, an authorization can only be unused: not worth a call.
        newest = max((head.timestamp + CLOCK_MARGIN_S for head in heads if head), default=None)
        worthwhile = [p for p in payments if newest is None or p.signed_at <= newest]
        answers = await asyncio.gather(*(node.words(worthwhile) for node in self._nodes))
        return {
            payment.payment_id: [
                by_id[payment.payment_id] for by_id in answers if payment.payment_id in by_id
            ]
            for payment in worthwhile
        }

    async def transaction(self, payment: OpenPayment) -> str | None:
        """The transaction that used the authorization, unless servers name different ones."""
        answers = await asyncio.gather(*(node.transaction(payment) for node in self._nodes))
        found = {transaction for transaction in answers if transaction is not None}
        if len(found) > 1:
            _log.warning(
                "reconcile.events.contradicted", payment=payment.payment_id, transactions=sorted(found)
            )
            return None
        return found.pop() if found else None


async def _open_payments(keyd: KeydClient) -> AsyncIterator[list[OpenPayment]]:
    after: int | None = 0
    while after is not None:
        page = await keyd.open_payments(after=after)
        yield page.payments
        after = page.next


def _by_network(payments: Sequence[OpenPayment]) -> dict[str, list[OpenPayment]]:
    groups: defaultdict[str, list[OpenPayment]] = defaultdict(list)
    for payment in payments:
        groups[payment.network].append(payment)
    return groups


async def _conclude(
    keyd: KeydClient, network: Network, payment: OpenPayment, words: list[Word] | None, summary: Summary
) -> None:
    """Weighs what the servers say of one payment, and tells keyd if they agree."""
    log = _log.bind(payment=payment.payment_id, network=network.name)
    if words is None:
        summary.open += 1
        return
    match weigh(words, needed=network.needed, valid_before=payment.valid_before):
        case TooFew(answers):
            log.warning("reconcile.payment.unreachable", answers=answers, needed=network.needed)
            summary.unreachable += 1
        case Contradiction(said):
            log.error("reconcile.payment.contradicted", servers=[str(word) for word in said])
            summary.contradicted += 1
        case Lagging():
            summary.open += 1
        case Agreed() as agreed:
            transaction = await network.transaction(payment) if agreed.used else None
            await _report(keyd, payment, _evidence(payment, agreed, transaction), summary, log)


async def _report(
    keyd: KeydClient,
    payment: OpenPayment,
    evidence: ChainEvidence,
    summary: Summary,
    log: structlog.typing.FilteringBoundLogger,
) -> None:
    """keyd, not this program, says what the evidence proves."""
    try:
        reply = await keyd.evidence(evidence)
    except KeydRefused as refusal:
        log.error("reconcile.evidence.refused", error=str(refusal))  # noqa: TRY400 - an answer, not a bug
        summary.refused += 1
        return
    if evidence.used and reply.state == "settled":
        summary.settled += 1
        log.info("reconcile.payment.settled", block=evidence.block_number, transaction=evidence.transaction)
    elif reply.state == payment.state == "released":
        log.info("reconcile.payment.still_released", block=evidence.block_number)
    elif reply.state == "released":
        summary.released += 1
        log.info("reconcile.payment.released", block=evidence.block_number)
    else:  # also a settlement that so far only the seller reports
        summary.open += 1


def _evidence(payment: OpenPayment, agreed: Agreed, transaction: str | None) -> ChainEvidence:
    return ChainEvidence(
        payment_id=payment.payment_id,
        used=agreed.used,
        block_number=agreed.block.number,
        block_hash=agreed.block.hash,
        block_timestamp=agreed.block.timestamp,
        transaction=transaction,
        sources=agreed.servers,
    )
