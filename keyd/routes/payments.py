"""The endpoints of payments: asked for by egress, ended by egress and the reconciler, looked at by people."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pydantic_core import from_json

from keyd import api
from keyd.core import flat
from keyd.core.intent import Intent, from_flat, from_request
from keyd.core.money import format_token_amount, format_usd
from keyd.core.policy import Deny
from keyd.http.messages import Handlers, Refused, Request, Response, first_mistake, number, parse, respond
from keyd.reasons import Reason
from keyd.record.looks import Looks
from keyd.service import Authorized, Service
from keyd.views import Views

_DAY: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"


class PaymentRoutes:
    def __init__(self, service: Service, views: Views, looks: Looks, clock: Callable[[], int]) -> None:
        self._service = service
        self._views = views
        self._looks = looks
        self._clock = clock

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "sign": self.sign,
            "outcome": self.outcome,
            "open_payments": self.open_payments,
            "evidence": self.evidence,
            "spend": self.spend,
            "payments": self.payments,
            "payment": self.payment,
            "refusals": self.refusals,
        }

    async def sign(self, request: Request) -> Response:
        intent = await self._intent(request)
        outcome = await self._service.authorize_payment(request.peer, intent)
        if isinstance(outcome, Deny):
            raise Refused(outcome.reason, outcome.detail)
        request.payment = outcome.payment.payment_id
        return respond(_sign_reply(outcome, self._clock() // 1_000_000, dialect=intent.dialect))

    async def _intent(self, request: Request) -> Intent:
        received = await request.body()
        assets, now_s = self._service.policies.base.assets, self._clock() // 1_000_000
        try:
            document = from_json(received, allow_inf_nan=False)
            if isinstance(document, dict) and "offers" not in document and "domain" in document:
                flat_form = api.FlatSignRequest.model_validate(document)
                return from_flat(flat_form, assets, now_s, caller=str(request.peer))
            return from_request(api.SignRequest.model_validate(document), assets, now_s)
        except ValueError as error:
            raise Refused(Reason.REQUEST_MALFORMED, first_mistake(error), 400) from None

    async def outcome(self, request: Request) -> Response:
        report = await parse(request, api.OutcomeReport)
        request.payment = report.payment_id
        state = await self._service.record_outcome(request.peer, report)
        if isinstance(state, Deny):
            raise Refused(state.reason, state.detail, 404)
        return respond(api.OutcomeReply.model_validate({"payment_id": report.payment_id, "state": state}))

    async def open_payments(self, request: Request) -> Response:
        return respond(self._views.open_payments(number(request, "after", default=0), self._clock()))

    async def evidence(self, request: Request) -> Response:
        evidence = await parse(request, api.ChainEvidence)
        request.payment = evidence.payment_id
        state = await self._service.record_evidence(request.peer, evidence)
        if isinstance(state, Deny):
            raise Refused(state.reason, state.detail, 404)
        return respond(api.OutcomeReply.model_validate({"payment_id": evidence.payment_id, "state": state}))

    async def spend(self, request: Request) -> Response:
        by = request.query.get("by", api.SpendBy.DOMAIN)
        today = self._views.today(self._clock())
        since = request.query.get("since", today)
        if by not in api.SpendBy or re.fullmatch(_DAY, since, re.ASCII) is None:
            words = f"by is one of {', '.join(api.SpendBy)}; since is a day like 2026-11-21"
            raise Refused(Reason.REQUEST_MALFORMED, words, 400)
        return respond(await self._looks.take(request.peer, self._views.spend, api.SpendBy(by), since))

    async def payments(self, request: Request) -> Response:
        state, domain = request.query.get("state"), request.query.get("domain")
        limit = number(request, "limit", default=50)
        look = self._looks.take(request.peer, self._views.payments, state=state, domain=domain, limit=limit)
        return respond(await look)

    async def refusals(self, request: Request) -> Response:
        limit = number(request, "limit", default=50)
        return respond(await self._looks.take(request.peer, self._views.refusals, limit))

    async def payment(self, request: Request) -> Response:
        payment_id = request.match_info["id"]
        story = await self._looks.take(request.peer, self._views.story, payment_id)
        if story is None:
            raise Refused(Reason.PAYMENT_UNKNOWN, f"there is no payment {payment_id[:64]!r}", 404)
        return respond(story)


def _sign_reply(authorized: Authorized, now_s: int, *, dialect: str) -> api.SignReply:
    payment = authorized.payment
    offer, authorization = payment.offer, payment.authorization
    payload = api.ExactPayload(
        signature=authorized.signature,
        authorization=api.Authorization.model_validate(authorization.as_json()),
    )
    return api.SignReply(
        payment_id=payment.payment_id,
        accepted=offer.index,
        payload=payload,
        valid_before=authorization.valid_before,
        wallet_address=authorization.from_,
        signature=authorized.signature,
        signed_at=now_s,
        repeat=payment.repeat,
        amount=format_token_amount(offer.amount, offer.asset.decimals),
        amount_usd=format_usd(offer.usd_micros),
        asset=offer.asset.symbol,
        network=offer.asset.network,
        requirements=flat.as_json(offer) if dialect == "flat" else None,
    )
