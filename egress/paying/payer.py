"""The conversation with keyd about one payment: ask for it, and report what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import structlog

from keyd.api import OutcomeReport, SignInReply, SignInRequest, SignReply, SignRequest
from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable

REPORT_RETRY_DELAYS_S: Final = (0.2, 1.0, 3.0)
"""Pauses before a report is tried again. A report that is lost costs no money: the payment stays open in keyd
and counts as spent. It can make the next identical request a repeat instead of a new purchase."""

REPORT_PATIENCE_S: Final = 1.0
"""How long an answer may wait for its report, where other workers have to know of it. keyd takes milliseconds."""

_log = structlog.get_logger("egress.payer")

type Failure = Literal["connection", "timeout", "hung_up", "not_sent"]


class Payer:
    """Orders the messages to keyd: a request is not put forward while the outcome of an identical one is still
    on its way, because keyd would take the new purchase for a repeat of the old one."""

    def __init__(
        self,
        keyd: KeydClient,
        *,
        among_others: bool = False,
        on_answer: Callable[[float], None] = lambda _: None,
        on_lost_report: Callable[[], None] = lambda: None,
    ) -> None:
        """`among_others`: the next identical request may come to another process, which knows nothing of reports here.
        `on_answer` is told how many seconds keyd took for a decision."""
        self._keyd = keyd
        self._on_answer = on_answer
        self._on_lost_report = on_lost_report
        self._among_others = among_others
        self._reports: dict[str, set[asyncio.Task[None]]] = {}

    async def sign(self, request: SignRequest) -> SignReply:
        """Raises KeydUnreachable, KeydRefused, KeydProtocolError."""
        if reports := self._reports.get(request.fingerprint):
            await asyncio.wait(reports)
        asked = time.perf_counter()
        try:
            return await self._keyd.sign(request)
        finally:
            self._on_answer(time.perf_counter() - asked)

    async def sign_in(self, request: SignInRequest) -> SignInReply:
        """Raises KeydUnreachable, KeydRefused, KeydProtocolError."""
        return await self._keyd.sign_in(request)

    def report(self, fingerprint: str, report: OutcomeReport) -> None:
        """Send `report` in the background: no application waits for it."""
        task = asyncio.create_task(self._deliver(report), name=f"outcome {report.payment_id}")
        reports = self._reports.setdefault(fingerprint, set())
        reports.add(task)

        def done(task: asyncio.Task[None]) -> None:
            reports.discard(task)
            if not reports and self._reports.get(fingerprint) is reports:
                del self._reports[fingerprint]

        task.add_done_callback(done)

    def reported(self, fingerprint: str) -> Awaitable[object] | None:
        """What the answer to this request has to wait for, if anything. Among others that is until keyd knows of it:
        an application that asks again at once would otherwise be told that its payment is still open."""
        if self._among_others and (reports := self._reports.get(fingerprint)):
            return asyncio.wait(reports, timeout=REPORT_PATIENCE_S)
        return None

    async def drain(self, timeout_s: float) -> None:
        """Wait until every report is answered or lost, at most `timeout_s` seconds."""
        if pending := [task for reports in self._reports.values() for task in reports]:
            await asyncio.wait(pending, timeout=timeout_s)

    async def _deliver(self, report: OutcomeReport) -> None:
        for delay in (*REPORT_RETRY_DELAYS_S, None):
            try:
                reply = await self._keyd.outcome(report)
            except KeydUnreachable as error:
                fault = str(error)
            except (KeydRefused, KeydProtocolError) as error:  # asking again would get the same answer
                fault, delay = str(error), None
            else:
                _log.info("egress.outcome.reported", payment=report.payment_id, state=reply.state)
                return
            if delay is None:
                break
            await asyncio.sleep(delay)
        self._on_lost_report()
        _log.error("egress.outcome.lost", payment=report.payment_id, error=fault)
