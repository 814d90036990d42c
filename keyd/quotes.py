"""What keyd would decide about an offer now. Reads only: nothing is recorded, reserved or signed."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

from keyd import api
from keyd.core.assets import AssetTable
from keyd.core.intent import Intent, read_terms
from keyd.core.money import format_token_amount, format_usd
from keyd.core.offers import Offer
from keyd.core.policy import Allow, Deny, Policy, admit, cheapest, decide
from keyd.custody.keystore import Payer
from keyd.record import payments, standing

QUOTES_PER_MINUTE: Final = 240
"""Of one user. A page of a marketplace asks for twenty at once; a loop must not keep the writer waiting."""

_NO_REQUEST: Final = hashlib.sha256(b"osmoda-quote/v1").hexdigest()
"""Fingerprint of no request that was ever made: a quote is never the repeat of an open payment."""


def intent_of(request: api.QuoteRequest, caller: str, assets: AssetTable, now_s: int) -> Intent:
    """The purchase that `caller` would make."""
    return Intent(
        origin=request.origin,
        method=request.method,
        path=request.path,
        caller=caller,
        fingerprint=_NO_REQUEST,
        key=None,
        x402_version=request.x402_version,
        offers=read_terms(request, assets, now_s),
        resource_url=None,
        wallet_id=None,
        session=request.session,
    )


def quote(
    db: sqlite3.Connection, intent: Intent, policy: Policy, payer: Payer | Deny, now_us: int
) -> api.Quote:
    """The verdict on `intent` at `now_us`, and what it would cost whatever the verdict."""
    record = standing.load(db, intent, policy, now_s=now_us // 1_000_000, day=payments.budget_day(now_us))
    if isinstance(payer, Deny):
        return _quote(admit(intent, policy, record) or payer, None)
    decision = decide(intent, policy, payer=payer.address, standing=record)
    if isinstance(decision, Allow):
        return _quote(decision, decision.offer)
    offer = decision.ask or cheapest(intent, policy, payer.address, record.pin if policy.pin else None)
    return _quote(decision, None if isinstance(offer, Deny) else offer)


def _quote(decision: Allow | Deny, offer: Offer | None) -> api.Quote:
    quoted = None if offer is None else _offer(offer)
    if isinstance(decision, Allow):
        return api.Quote(verdict="pay", offer=quoted)
    return api.Quote(
        verdict="refuse" if decision.ask is None else "hold",
        code=decision.reason.value,
        detail=decision.detail,
        hint=decision.reason.hint,
        offer=quoted,
    )


def _offer(offer: Offer) -> api.QuotedOffer:
    return api.QuotedOffer(
        accepted=offer.index,
        amount=format_token_amount(offer.amount, offer.asset.decimals),
        amount_usd=format_usd(offer.usd_micros),
        asset=offer.asset.symbol,
        network=offer.asset.network,
        pay_to=offer.pay_to,
    )
