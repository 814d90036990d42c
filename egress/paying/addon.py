"""The addon: what is done to a request and its answer at each step that mitmproxy announces."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable
from typing import Final

import structlog
from mitmproxy import ctx, http
from mitmproxy.addons.proxyserver import Proxyserver

from egress.paying import steering
from egress.paying.buyer import Buyer
from egress.paying.calls import LiveCalls, kind_of
from egress.paying.decisions import Advance, Challenge, PaidAnswerBegun, PassOn, Pay
from egress.paying.exchange import EGRESS_HEADER, BodyCopy, Exchange, Payment
from egress.paying.payer import Failure, Payer
from egress.paying.room import Room
from egress.paying.steering import Wishes
from egress.reach import guard
from egress.wire import x402
from egress.wire.mcp import Outcome, PaidAnswer, PaidCall
from keyd import api
from keyd.reasons import Reason

SMALL_BODY: Final = 64 * 1024
"""A request body of known length up to this is sent in one piece once it is complete. Servers that answer 402
without reading the body then cannot cut off an upload that is under way."""

FAIR_WAIT_S: Final = 10.0
"""An application that hangs up after this long has waited for the paid answer in vain, and keyd may hold it against the
server. One that goes earlier says nothing about it: else any program could bring a host into quarantine for all others.
Sellers settle first, which takes seconds."""

_NEVER_UPSTREAM: Final = ("Proxy-Authorization", "Proxy-Connection")
_ANSWERED_HERE: Final = guard.REFUSED_HERE | {Reason.TOO_MANY_CONNECTIONS}
"""Refusals for which the answer is egress's own, whatever its status."""
_OWN_PAYMENT: Final = (x402.PAYMENT_SIGNATURE, x402.X_PAYMENT, steering.PAYMENT)

_log = structlog.get_logger("egress")


class X402Addon:
    """Keeps what is needed to repeat a request, has 402s paid, and tells the application what happened."""

    def __init__(
        self, buyer: Buyer, payer: Payer, room: Room, *, enabled: bool, max_request_body: int
    ) -> None:
        self._buyer = buyer
        self._payer = payer
        self._room = room
        self._enabled = enabled
        self._max_request_body = max_request_body
        self._calls = LiveCalls(buyer.asks_as)
        self.live: set[str] = set()
        """Ids of the flows that have begun and not ended."""

    # -- the request ----------------------------------------------------------------------------------------

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self.live.add(flow.id)
        exchange = Exchange.of(flow)
        exchange.wishes = Wishes.of(flow.request.headers)
        self._refuse(flow, exchange.wishes.refusal)
        if any(name in flow.request.headers for name in _OWN_PAYMENT):
            self._refuse(flow, Reason.OWN_PAYMENT)
        if not self._enabled:
            self._refuse(flow, Reason.EGRESS_DISABLED)
        strip_request_headers(flow.request.headers)
        self._keep_body(flow, exchange)
        exchange.may_prepay = exchange.refusal is None and self._buyer.expects_to_pay(flow.request)

    def request(self, flow: http.HTTPFlow) -> None:
        if (trailers := flow.request.trailers) is not None:
            self._refuse(flow, steering.refusal_by_trailers(trailers))
            strip_request_headers(trailers)
        self._calls.follow(flow)

    def _refuse(self, flow: http.HTTPFlow, reason: Reason | None) -> None:
        """Should this request be answered with 402, then it is not paid, for the first reason that was found."""
        if reason is Reason.KEY_IN_HEADER:
            _log.warning("egress.key_in_header", host=flow.request.host, port=flow.request.port)
        exchange = Exchange.of(flow)
        exchange.refusal = exchange.refusal or reason

    def _keep_body(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        exchange.share = self._room.share()
        length = flow.request.headers.get("content-length", "")
        known = int(length) if length.isdecimal() and len(length) < 20 else None
        small = known is not None and known <= min(SMALL_BODY, self._max_request_body)
        if known is not None and small and exchange.share.take(known):
            return
        exchange.body = BodyCopy(self._max_request_body, exchange.share, length=known)
        flow.request.stream = exchange.body

    # -- the 402 --------------------------------------------------------------------------------------------

    async def payment_required(self, challenge: Challenge) -> None:
        challenge.upstream_blocked = self._abort_if_blocked(challenge.flow)
        decision = challenge.decision = await self._buyer.decide(challenge)
        if isinstance(decision, Pay) and isinstance(decision.payment.instrument, PaidCall):
            if self._calls.was_cancelled(challenge.flow, decision.payment.instrument.call):
                self._report(decision.payment, failure="not_sent")
                challenge.decision = PassOn(Reason.CLIENT_GONE)  # nobody waits for the result
            else:
                self._calls.begin(challenge.flow, decision.payment.instrument)
        Exchange.of(challenge.flow).asked_in_body = challenge.asked is not None

    async def prepay(self, advance: Advance) -> None:
        advance.decision = await self._buyer.prepay(advance)

    def abort_upstream(self, flow: http.HTTPFlow) -> None:
        transport = _upstream_transport(flow)
        if transport is not None:
            transport.abort()

    def _abort_if_blocked(self, flow: http.HTTPFlow) -> bool:
        """Cut an HTTP/1 upstream connection on which bytes of the first request are still waiting."""
        transport = _upstream_transport(flow)
        if transport is None or flow.server_conn.alpn == b"h2" or not transport.get_write_buffer_size():
            return False
        transport.abort()
        return True

    # -- the answer -----------------------------------------------------------------------------------------

    def responseheaders(self, flow: http.HTTPFlow) -> Awaitable[object] | None:
        assert flow.response is not None
        exchange, response = Exchange.of(flow), flow.response
        response.stream = True
        response.headers.pop(EGRESS_HEADER, None)
        payment = exchange.payment
        if payment is not None and payment.sent:
            settlement = _settlement(response)
            self._answered(payment, response, settlement)
            self._buyer.answered(flow, response.status_code, settlement)
            if payment.answer is None:
                return self._payer.reported(payment.fingerprint)
            stream_call(flow, payment.answer)
        elif _asks_for_payment(response) or exchange.asked_in_body or exchange.refusal in _ANSWERED_HERE:
            if payment is not None:
                self._report(payment, failure="not_sent")
            precondition = response.status_code == 412
            otherwise = Reason.PAYMENT_PRECONDITION if precondition else Reason.INTERNAL
            reason = exchange.reason or otherwise
            response.headers[EGRESS_HEADER] = f"rejected; reason={reason}"
            _log.info("egress.rejected", host=flow.request.host, port=flow.request.port, reason=str(reason))
        elif exchange.signed_in:
            response.headers[EGRESS_HEADER] = "signed-in"
        return None

    def _answered(
        self, payment: Payment, response: http.Response, settlement: dict[str, object] | None
    ) -> None:
        """The answer to what was paid begins. That of an MCP call tells how it went in its body."""
        kind = kind_of(response.headers) if response.status_code == 200 else None
        if isinstance(payment.instrument, PaidCall) and kind is not None:
            payment.answer = PaidAnswer(kind, payment.instrument.new_id, payment.instrument.call.id)
            response.headers[EGRESS_HEADER] = _said("unknown", payment, None)
            return
        self._report(payment, http_status=response.status_code, settlement=settlement)
        response.headers[EGRESS_HEADER] = _paid(payment, response, settlement)

    def paid_answer(self, begun: PaidAnswerBegun) -> None:
        payment = Exchange.of(begun.flow).payment
        assert payment is not None
        self._answered(payment, begun.response, _settlement(begun.response))

    def response(self, flow: http.HTTPFlow) -> Awaitable[object] | None:
        self._end(flow)
        if flow.response is not None and flow.response.trailers is not None:
            flow.response.trailers.pop(EGRESS_HEADER, None)
        payment = Exchange.of(flow).payment
        if payment is not None and payment.answer is not None:
            self._report_call(payment, payment.answer)
            return self._payer.reported(payment.fingerprint)
        if payment is not None and not payment.sent:
            self._report(payment, failure="not_sent")
        return None

    def error(self, flow: http.HTTPFlow) -> None:
        self._end(flow)
        exchange = Exchange.of(flow)
        if (payment := exchange.payment) is not None:
            if payment.answer is not None and payment.answer.outcome is not None:
                self._report_call(payment, payment.answer)
            self._buyer.broken_off(flow)
            self._report(payment, failure=_why_unanswered(payment, exchange.hung_up))

    def _end(self, flow: http.HTTPFlow) -> None:
        self.live.discard(flow.id)
        self._calls.end(flow)
        Exchange.of(flow).release()

    def _report_call(self, payment: Payment, answer: PaidAnswer) -> None:
        """An answer that was too large to be looked at was delivered all the same."""
        outcome = answer.outcome or Outcome(200)
        self._report(payment, http_status=outcome.http_status, settlement=outcome.settlement)

    def _report(
        self,
        payment: Payment,
        *,
        http_status: int | None = None,
        settlement: dict[str, object] | None = None,
        failure: Failure | None = None,
    ) -> None:
        """Once for each payment: what is known first counts."""
        if payment.reported:
            return
        payment.reported = True
        if http_status is not None and not 100 <= http_status <= 999:  # none of HTTP: as good as no answer
            http_status, failure = None, "connection"
        report = api.OutcomeReport(
            payment_id=payment.reply.payment_id,
            http_status=http_status,
            settlement=settlement,
            failure=failure,
            answered_at=None if http_status is None else int(time.time() * 1_000_000),
        )
        self._payer.report(payment.fingerprint, report)

    # -- connections ----------------------------------------------------------------------------------------

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        """A CONNECT that failed. mitmproxy has made a 502 of it; a refused destination is a 403."""
        if refusal := guard.refusal_in(flow.server_conn.error):
            flow.response = refusal.response()
            flow.response.headers[EGRESS_HEADER] = f"rejected; reason={refusal.reason}"


def _why_unanswered(payment: Payment, hung_up: bool) -> Failure:
    if payment.sent_at is None:
        return "not_sent"
    if not hung_up:
        return "connection"
    return "timeout" if time.monotonic() - payment.sent_at >= FAIR_WAIT_S else "hung_up"


def strip_request_headers(headers: http.Headers) -> None:
    """Remove what is meant for egress: X-402-* steers it (and X-402-Key is a private key), Proxy-* is for it."""
    steering.strip(headers)
    for name in _NEVER_UPSTREAM:
        headers.pop(name, None)


def stream_call(flow: http.HTTPFlow, answer: PaidAnswer) -> None:
    """Put the application's id back as the answer passes. It may get longer or shorter by that."""
    response = flow.response
    assert response is not None
    response.stream = answer
    if response.headers.pop("content-length", None) is not None and flow.request.http_version == "HTTP/1.1":
        response.headers["transfer-encoding"] = "chunked"


def _settlement(response: http.Response) -> dict[str, object] | None:
    for name in (x402.PAYMENT_RESPONSE, x402.X_PAYMENT_RESPONSE):
        if values := response.headers.get_all(name):
            return x402.read_settlement(values)
    return None


def _asks_for_payment(response: http.Response) -> bool:
    """A 402, or the 412 with terms of official servers: something has to be done before they can be paid."""
    status = response.status_code
    return status == 402 or (status == 412 and x402.PAYMENT_REQUIRED in response.headers)


def _paid(payment: Payment, response: http.Response, settlement: dict[str, object] | None) -> str:
    """The X-402-Egress value of an answer that came after the payment was sent."""
    if _asks_for_payment(response):
        return f"rejected; reason={Reason.ALREADY_PAID}; payment={payment.reply.payment_id}"
    # An error answer proves neither that the money moved nor that it did not.
    return _said("paid" if response.status_code < 400 else "unknown", payment, settlement)


def _said(word: str, payment: Payment, settlement: dict[str, object] | None) -> str:
    reply = payment.reply
    fields = {
        "amount": reply.amount,
        "asset": reply.asset,
        "network": reply.network,
        "payment": reply.payment_id,
        "tx": x402.transaction_hash(settlement),
    }
    return "; ".join([word, *(f"{name}={_token(value)}" for name, value in fields.items() if value)])


def _token(value: str) -> str:
    """Safe inside a header field: symbols from an admin's asset table may hold any character."""
    return re.sub(r"[^A-Za-z0-9._:/@+-]", "_", value)


def _upstream_transport(flow: http.HTTPFlow) -> asyncio.WriteTransport | None:
    """The TCP transport of the flow's upstream connection, while it is open."""
    proxyserver = ctx.master.addons.get("proxyserver")  # type: ignore[no-untyped-call]
    assert isinstance(proxyserver, Proxyserver)
    handler = proxyserver.connections.get(flow.client_conn.id)
    io = handler.transports.get(flow.server_conn) if handler else None
    return io.writer.transport if io and isinstance(io.writer, asyncio.StreamWriter) else None
