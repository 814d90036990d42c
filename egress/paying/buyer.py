"""The decision on a held 402: read its terms, ask keyd, and say what is done next."""

from __future__ import annotations

import re
import secrets
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog
from mitmproxy import http
from pydantic import ValidationError

from egress.callers.identity import Asker, Identity
from egress.paying.decisions import Advance, Challenge, PassOn, Pay, Probe, Repeat, SignIn
from egress.paying.exchange import Exchange, Payment
from egress.paying.origin import connected_origin, names_origin
from egress.paying.payer import Payer
from egress.paying.policy import PayablePolicy
from egress.paying.prepay import Prepayments
from egress.paying.steering import Wishes
from egress.wire import extensions, mcp, signin, x402
from egress.wire.fingerprint import fingerprint
from keyd import api
from keyd.client import KeydProtocolError, KeydRefused, KeydUnreachable
from keyd.reasons import Reason

_SAFE: Final = ("GET", "HEAD")
"""Methods that may be sent once more than the application did (RFC 9110 section 9.2.1)."""
MAX_SIGNED_OFFERS: Final = 32 * 1024
"""Bytes of signed offers that are handed to keyd; one takes about half a KB."""
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

_log = structlog.get_logger("egress")


class Buyer:
    """Judges nothing about money: what is paid is keyd's decision."""

    def __init__(
        self, payer: Payer, identity: Identity, policy: PayablePolicy, *, flat_dialect: bool
    ) -> None:
        """`flat_dialect`: terms in osModa's flat form are terms."""
        self._payer = payer
        self._identity = identity
        self._policy = policy
        self._prepayments = Prepayments(policy.prepaid_after)
        self._flat_dialect = flat_dialect

    async def decide(self, challenge: Challenge) -> PassOn | Repeat:
        flow, exchange = challenge.flow, Exchange.of(challenge.flow)
        if exchange.refusal is not None:  # said by the trailers of an upload that its 402 had overtaken
            return PassOn(exchange.refusal)
        origin = connected_origin(flow.server_conn)
        if origin is None or not names_origin(flow.request, origin):
            return PassOn(Reason.HOST_UNVERIFIED)
        try:
            stated = self._terms(challenge)
        except x402.X402Error as error:
            _log.info("egress.terms_missing", origin=str(origin), fault=str(error))
            return self._without_terms(flow, origin)
        who = await self._identity.asker(flow)
        call = challenge.asked.call if challenge.asked else None
        if call is None and (proof := await self._sign_in(flow, stated, origin, who)) is not None:
            exchange.signed_in = True
            return SignIn(origin, proof)
        if not stated.accepts:
            return PassOn(Reason.TERMS_MISSING)
        looked_at = replace(stated, accepts=stated.accepts[: api.MAX_OFFERS])
        required = looked_at if call else x402.sendable(looked_at)
        if required is None:
            return PassOn(Reason.PAYMENT_HEADER_TOO_LONG)
        try:
            request = sign_request(
                flow.request, challenge.request_body, origin, exchange.wishes, who, required, call
            )
        except ValidationError as error:
            return PassOn(_unfit(error))
        decision = await self._ask_keyd(request, required, origin, call)
        if isinstance(decision, Pay) and not (call or exchange.signed_in or exchange.probed):
            self._prepayments.asked(flow.request, origin, required)
        return decision

    def asks_as(self, flow: http.HTTPFlow) -> Hashable:
        """The same for two requests of one caller."""
        return self._identity.told_apart(flow)

    # -- before the server asks -----------------------------------------------------------------------------

    def expects_to_pay(self, request: http.Request) -> bool:
        """Whether `prepay` is worth a call."""
        return self._prepayments.expected(request) is not None

    async def prepay(self, advance: Advance) -> Pay | None:
        """A payment for a request that the server has not seen; None: send it unpaid, as ever."""
        flow, exchange = advance.flow, Exchange.of(advance.flow)
        required, origin = self._prepayments.expected(flow.request), connected_origin(flow.server_conn)
        if exchange.refusal is not None or required is None or origin is None:
            return None
        if not names_origin(flow.request, origin):
            return None
        who = await self._identity.asker(flow)
        try:
            request = sign_request(
                flow.request, advance.request_body, origin, exchange.wishes, who, required, prepaid=True
            )
        except ValidationError:
            return None
        decision = await self._ask_keyd(request, required, origin, None)
        if isinstance(decision, Pay):
            decision.payment.prepaid = True
            return decision
        self._prepayments.forget(flow.request)
        return None

    def answered(self, flow: http.HTTPFlow, status: int, settlement: Mapping[str, object] | None) -> None:
        """What came of a payment. Without a receipt nobody knows whether the server wanted it at all."""
        payment = Exchange.of(flow).payment
        if payment is None or not payment.prepaid:
            return
        if status < 400 and settlement is not None and settlement.get("success") is True:
            self._prepayments.confirm(flow.request)
        else:
            self._prepayments.forget(flow.request)

    def broken_off(self, flow: http.HTTPFlow) -> None:
        """No answer came."""
        if (payment := Exchange.of(flow).payment) is not None and payment.prepaid:
            self._prepayments.forget(flow.request)

    # -- after it has asked ---------------------------------------------------------------------------------

    def _terms(self, challenge: Challenge) -> x402.PaymentRequired:
        """Raises X402Error."""
        if challenge.asked is not None:
            return challenge.asked.terms
        answer = challenge.probed or challenge.flow.response
        assert answer is not None
        return x402.read_payment_required(
            answer.headers.get_all(x402.PAYMENT_REQUIRED),
            answer.raw_content or b"",
            flat_dialect=self._flat_dialect,
        )

    def _without_terms(self, flow: http.HTTPFlow, origin: api.Origin) -> PassOn | Probe:
        """A page for people may hide the terms: programs are asked once, if that changes nothing on the server."""
        exchange, request, page = Exchange.of(flow), flow.request, flow.response
        assert page is not None
        shown_a_page = page.headers.get("content-type", "").lower().startswith("text/html")
        asked_for_json = request.headers.get("accept", "").strip().lower() == Probe.header.value
        if exchange.probed or not shown_a_page or asked_for_json or request.method not in _SAFE:
            return PassOn(Reason.TERMS_MISSING)
        if not self._policy.covers(origin):  # nobody could pay there, whatever it asks for
            return PassOn(Reason.TERMS_MISSING)
        exchange.probed = True
        return Probe(origin)

    async def _sign_in(
        self, flow: http.HTTPFlow, stated: x402.PaymentRequired, origin: api.Origin, who: Asker
    ) -> x402.Header | None:
        """The header that lets the request in without a payment; None if there is none, and it has to be paid.

        Once for each request: a server that has refused it will refuse the next one, too.
        """
        asked = signin.challenge(stated.extensions)
        if asked is None or Exchange.of(flow).signed_in or signin.HEADER in flow.request.headers:
            return None
        if not self._policy.may_sign_in(origin):
            return None
        try:
            request = api.SignInRequest(
                origin=origin,
                method=flow.request.method,
                path=_path(flow.request),
                caller=who.caller,
                session=who.session,
                info=asked.info,
                supported_chains=asked.supported_chains,
            )
            return signin.header((await self._payer.sign_in(request)).proof)
        except KeydRefused as refused:
            _log.info("egress.signin.refused", origin=str(origin), reason=refused.refusal.code)
        except (KeydUnreachable, KeydProtocolError, ValidationError):
            _log.info("egress.signin.failed", origin=str(origin))
        return None

    async def _ask_keyd(
        self,
        request: api.SignRequest,
        required: x402.PaymentRequired,
        origin: api.Origin,
        call: mcp.Call | None,
    ) -> Pay | PassOn:
        try:
            reply = await self._payer.sign(request)
        except KeydRefused as refused:
            code = refused.refusal.code
            return PassOn(code if _CODE.fullmatch(code) else Reason.KEYD_ERROR)
        except KeydUnreachable:
            return PassOn(Reason.KEYD_UNREACHABLE)
        except KeydProtocolError:
            return PassOn(Reason.KEYD_ERROR)
        try:
            if required.dialect == "flat":  # the payment names keyd's reading of it as `accepted`
                required = replace(required, accepts=(reply.requirements,))
            instrument = _instrument(required, reply, call)
        except x402.X402Error:
            not_sent = api.OutcomeReport(payment_id=reply.payment_id, failure="not_sent")
            self._payer.report(request.fingerprint, not_sent)
            return PassOn(Reason.KEYD_ERROR)
        return Pay(origin, Payment(reply, instrument, request.fingerprint))


def _instrument(
    required: x402.PaymentRequired, reply: api.SignReply, call: mcp.Call | None
) -> x402.Header | mcp.PaidCall:
    """Raises X402Error."""
    payload = reply.payload.model_dump(by_alias=True)
    if call is None:
        return x402.encode_payment(required, reply.accepted, payload, reply.payment_id)
    payment = x402.payment_payload(required, reply.accepted, payload, reply.payment_id, room=mcp.MAX_MESSAGE)
    return mcp.PaidCall.of(call, payment, f"osmoda-{secrets.token_hex(16)}")


def sign_request(
    request: http.Request,
    body: bytes,
    origin: api.Origin,
    wishes: Wishes,
    who: Asker,
    required: x402.PaymentRequired,
    call: mcp.Call | None = None,
    *,
    prepaid: bool = False,
) -> api.SignRequest:
    """What keyd is asked. Raises pydantic.ValidationError, for example for an X-402-Intent of no length."""
    path, resource_url = _path(request), required.resource_url
    if call is not None:  # an MCP endpoint sells many things, each at its price
        path, body = f"{path}#{call.what}"[:2048], call.identity
    return api.SignRequest(
        origin=origin,
        method=request.method,
        path=path,
        fingerprint=fingerprint(request.method, f"{origin}{request.path}", body),
        intent=wishes.intent,
        caller=who.caller,
        session=who.session,
        started_at=int(request.timestamp_start * 1_000_000),
        x402_version=required.version,
        dialect=required.dialect,
        offers=list(required.accepts),
        signed_offers=_signed_offers(required.extensions),
        resource_url=None if resource_url is None else resource_url[:2048],
        max_spend=wishes.max_spend,
        prefer=wishes.prefer,
        prepaid=prepaid,
    )


def _unfit(error: ValidationError) -> Reason:
    """A limit that keyd would not even be told of refuses as one that it cannot read."""
    by_app = {"intent", "max_spend", "prefer"}.intersection(fault["loc"][0] for fault in error.errors())
    return Reason.APP_LIMIT_MALFORMED if by_app else Reason.REQUEST_MALFORMED


def _signed_offers(offered: Mapping[str, Any] | None) -> list[Any]:
    """What the seller signed of its offers (extension `offer-receipt`), for the record; nothing if it is too much."""
    found: Any = offered
    for member in (extensions.OFFER_RECEIPT, "info", "offers"):
        found = found.get(member) if isinstance(found, Mapping) else None
    if not isinstance(found, list):
        return []
    found = found[: api.MAX_OFFERS]
    return found if extensions.size({"offers": found}) <= MAX_SIGNED_OFFERS else []


def _path(request: http.Request) -> str:
    """Without the query, as keyd records it."""
    return _text(request.path).partition("?")[0][:2048]


def _text(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
