"""The decision: which offer of a 402 is paid, or why none is. Pure, in a fixed order, one reason code each.

1. switched on?             x402_disabled
2. host on the list?        domain_not_allowed
3. which offers could be?   the reason against the offer that came furthest
4. the cheapest of them     cap_per_payment
5. today's budget           budget_daily
"""

from __future__ import annotations

from dataclasses import dataclass

from keyd.assets import AssetTable
from keyd.domains import DomainPattern, any_matches
from keyd.intent import Intent
from keyd.money import format_usd
from keyd.offers import Offer, Unpayable, judge
from keyd.reasons import Reason


@dataclass(frozen=True, slots=True)
class Policy:
    """What the administrator allows. Amounts in micro-USD."""

    enabled: bool
    allowed_domains: tuple[DomainPattern, ...]
    networks: frozenset[str]
    assets: AssetTable
    max_payment: int
    daily_budget: int


@dataclass(frozen=True, slots=True)
class Allow:
    offer: Offer


@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal is a value: a code from the registry and the figures behind it."""

    reason: Reason
    detail: str


def decide(intent: Intent, policy: Policy, *, payer: str, spent: int) -> Allow | Deny:
    """`payer` is the paying wallet's address, `spent` what counts against today's budget, in micro-USD."""
    if denial := admit(intent, policy):
        return denial
    offer = cheapest(intent, policy, payer)
    if isinstance(offer, Deny):
        return offer
    price = format_usd(offer.usd_micros)
    if offer.usd_micros > policy.max_payment:
        cap = format_usd(policy.max_payment)
        return Deny(Reason.CAP_PER_PAYMENT, f"{price} USD > {cap} USD for {intent.domain}")
    if spent + offer.usd_micros > policy.daily_budget:
        figures = f"{format_usd(spent)} of {format_usd(policy.daily_budget)} USD are spent today"
        return Deny(Reason.BUDGET_DAILY, f"{price} USD for {intent.domain} does not fit: {figures}")
    return Allow(offer)


def admit(intent: Intent, policy: Policy) -> Deny | None:
    """What holds before any offer is looked at, and for the repeat of a payment as well."""
    if not policy.enabled:
        return Deny(Reason.X402_DISABLED, "payments are switched off")
    if not any_matches(policy.allowed_domains, intent.origin):
        return Deny(Reason.DOMAIN_NOT_ALLOWED, f"{intent.domain} is not in allowed_domains")
    return None


def cheapest(intent: Intent, policy: Policy, payer: str) -> Offer | Deny:
    """The payable offer that costs least in micro-USD (the seller's order decides a tie), or why there is none."""
    payable, against = _sort(intent, policy, payer)
    if payable:
        return min(payable, key=lambda offer: offer.usd_micros)
    # The offer that came furthest is the one a person can do something about.
    nearest = max(against, key=lambda unpayable: _STAGE[unpayable.reason])
    return Deny(nearest.reason, nearest.detail)


def same_terms(
    intent: Intent, policy: Policy, payer: str, *, network: str, asset: str, pay_to: str, amount: int
) -> Offer | None:
    """The payable offer with exactly these terms: the one a payment that was signed before still answers."""
    for offer in _sort(intent, policy, payer)[0]:
        theirs = (offer.asset.network, offer.asset.address, offer.pay_to, offer.amount)
        if theirs == (network, asset, pay_to, amount):
            return offer
    return None


_STAGE = {
    reason: stage
    for stage, reason in enumerate(
        [
            Reason.OFFER_MALFORMED,
            Reason.SCHEME_UNSUPPORTED,
            Reason.NETWORK_UNKNOWN,
            Reason.NETWORK_NOT_ALLOWED,
            Reason.ASSET_UNKNOWN,
            Reason.TRANSFER_METHOD_UNSUPPORTED,
            Reason.PAYMENT_FLOW_UNSUPPORTED,
            Reason.ASSET_MISMATCH,
            Reason.AMOUNT_INVALID,
            Reason.PAY_TO_INVALID,
            Reason.TIMEOUT_INVALID,
        ]
    )
}
"""How far an offer came in `keyd.offers.judge`; a test keeps the two in step."""


def _sort(intent: Intent, policy: Policy, payer: str) -> tuple[list[Offer], list[Unpayable]]:
    payable: list[Offer] = []
    against: list[Unpayable] = []
    for terms in intent.offers:
        verdict = (
            terms if isinstance(terms, Unpayable) else judge(terms, policy.assets, policy.networks, payer)
        )
        if isinstance(verdict, Offer):
            payable.append(verdict)
        else:
            against.append(verdict)
    return payable, against
