"""The decision: which offer of a 402 is paid, or why none is. Pure, in a fixed order, one reason code each.

1. is the caller known, and a payer?     caller_unknown, caller_not_allowed, session_invalid
2. switched on, and not frozen?          x402_disabled, frozen
3. host denied? on the list? sound?      domain_denied, domain_not_allowed, host_quarantined
4. which offers could be paid?           the reason against the offer that came furthest
5. the cheapest of them                  cap_per_payment
6. how often, and how much today?        rate_limit, budget_daily, _domain, _caller, _caller_domain, _session
7. if paid before asked: as pinned?      prepay_not_allowed
8. as it was when first paid?            pin_pay_to, pin_asset, pin_price
9. does a person have to agree?          approval_required
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from keyd.core.applimits import Token
from keyd.core.assets import AssetTable
from keyd.core.intent import UNKNOWN_CALLER, Intent
from keyd.core.money import format_token_amount, format_usd
from keyd.core.offers import Offer, Unpayable, judge
from keyd.domains import DomainPattern, any_matches
from keyd.reasons import Reason

EVERY_CALLER: Final = "*"


MAX_SESSION_PAYMENTS: Final = 10_000
"""Payments of one session: each decision in it adds them up, which takes milliseconds then."""
MAX_SHOWN_PATH: Final = 80
"""Characters of a request's path in a question to a person."""


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A daily budget for one domain, one caller, or one caller at one domain. Micro-USD."""

    domain: str | None
    caller: str | None
    daily: int

    def applies_to(self, intent: Intent) -> bool:
        return self.domain in (None, intent.domain) and self.caller in (None, intent.caller)


@dataclass(frozen=True, slots=True)
class PrepayRule:
    """Where requests may be paid before the server asks (ADR 0013)."""

    domain: str
    methods: frozenset[str]
    after: int
    """How many 402s in a row have to have asked for the same. egress counts them; keyd relies on its pins."""

    def applies_to(self, intent: Intent) -> bool:
        return self.domain == intent.domain and intent.method in self.methods


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed. Amounts in micro-USD; None: no such limit."""

    enabled: bool
    allowed_domains: tuple[DomainPattern, ...]
    networks: frozenset[str]
    assets: AssetTable
    max_payment: int
    daily_budget: int
    callers: frozenset[str] = frozenset({EVERY_CALLER})
    """Who may pay, named as `Intent.caller`; EVERY_CALLER stands for all whom egress can identify."""
    session_required: frozenset[str] = frozenset()
    """Who pays inside of a session only, named likewise."""
    only_domains: tuple[DomainPattern, ...] | None = None
    """A second list, which a host must be on as well: how an agent narrows the first."""
    denied_domains: tuple[DomainPattern, ...] = ()
    daily_budget_per_domain: int | None = None
    daily_budget_per_caller: int | None = None
    daily_budget_per_caller_and_domain: int | None = None
    budgets: tuple[BudgetRule, ...] = ()
    payments_per_minute: int | None = None
    allowed_assets: tuple[Token, ...] | None = None
    """The only tokens to pay in, among those of the asset table."""
    prepay: tuple[PrepayRule, ...] = ()
    pay_to: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Domain → the only recipients (EIP-55) it may name."""
    pin: bool = True
    pin_price_factor_milli: int = 2000
    """How far a price may rise above the first one, in thousandths: 2000 is twice."""
    signin_domains: tuple[str, ...] = ()
    """Domains, as `Intent.domain` spells them, where we may sign in instead of paying."""
    approve_above: int | None = None
    approve_first_seen: bool = False
    quarantine_after: int | None = 10
    """Payments in a row without delivery or proof, after which a host is not paid any more."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What the first payment to a host fixed."""

    network: str
    asset: str
    pay_to: str

    def holds(self, offer: Offer) -> bool:
        return (offer.asset.network, offer.asset.address, offer.pay_to) == (
            self.network,
            self.asset,
            self.pay_to,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """Micro-USD that count against today's budgets, as far as they concern one intent."""

    total: int = 0
    domain: int = 0
    caller: int = 0
    caller_and_domain: int = 0


@dataclass(frozen=True, slots=True)
class SessionStanding:
    """The session that an intent is made in. Micro-USD."""

    id: str
    label: str
    budget: int
    spent: int
    payments: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What the record says about this intent's host, caller and day."""

    spent: Spent = Spent()
    last_minute: int = 0
    """Payments signed in the last 60 seconds."""
    frozen: bool = False
    quarantined: bool = False
    pin: Pin | None = None
    """None: this host was never paid."""
    pinned_price: int | None = None
    """Micro-USD of the first payment for this method and path; None: never paid for."""
    session: SessionStanding | None = None
    """None: the intent names none, or one that its caller may not use (`keyd.record.sessions.standing`)."""
    approved: frozenset[str] = frozenset()
    """Ids (`approval_id`) that a person has approved and that were not used up."""


@dataclass(frozen=True, slots=True)
class Allow:
    offer: Offer
    approval: str | None = None
    """The approval that this payment uses up."""


@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal is a value: a code from the registry and the figures behind it."""

    reason: Reason
    detail: str
    ask: Offer | None = None
    """Held: a person may approve this offer."""


def decide(intent: Intent, policy: Policy, *, payer: str, standing: Standing) -> Allow | Deny:
    """`payer` is the paying wallet's address."""
    return admit(intent, policy, standing) or choose(intent, policy, payer=payer, standing=standing)


def choose(intent: Intent, policy: Policy, *, payer: str, standing: Standing) -> Allow | Deny:
    """The rest of the decision, for an intent that `admit` has nothing against."""
    offer = cheapest(intent, policy, payer, standing.pin if policy.pin else None)
    if isinstance(offer, Deny):
        return offer
    if excess := next(_limits(intent, policy, standing, offer), None):
        return excess
    if intent.prepaid and not _as_pinned(standing, offer):
        return Deny(Reason.PREPAY_NOT_ALLOWED, f"{intent.domain} was not paid in these terms before")
    holds = list(_holds(intent, policy, standing, offer))
    if not holds:
        return Allow(offer)
    approval = approval_id(intent, offer)
    if approval in standing.approved:
        return Allow(offer, approval)
    reasons = "; ".join(why for _, why in holds)
    return Deny(holds[0][0], f"{_terms(intent, offer)}: {reasons}", ask=None if intent.prepaid else offer)


def admit(intent: Intent, policy: Policy, standing: Standing) -> Deny | None:
    """What holds before any offer is looked at, and for the repeat of a payment as well."""
    domain = intent.domain
    if intent.caller == UNKNOWN_CALLER:
        return Deny(Reason.CALLER_UNKNOWN, "egress cannot tell which program asks")
    if not policy.callers & {intent.caller, EVERY_CALLER}:
        return Deny(Reason.CALLER_NOT_ALLOWED, f"{intent.caller} is not in callers")
    if intent.session is not None and standing.session is None:
        return Deny(Reason.SESSION_INVALID, f"session {intent.session[:16]} is not open for {intent.caller}")
    if intent.session is None and policy.session_required & {intent.caller, EVERY_CALLER}:
        return Deny(Reason.SESSION_REQUIRED, f"{intent.caller} pays inside of a session only")
    if not policy.enabled:
        return Deny(Reason.X402_DISABLED, "payments are switched off")
    if standing.frozen:
        return Deny(Reason.FROZEN, "payments are frozen")
    if any(pattern.denies(intent.origin) for pattern in policy.denied_domains):
        return Deny(Reason.DOMAIN_DENIED, f"{domain} is in denied_domains")
    if not any_matches(policy.allowed_domains, intent.origin):
        return Deny(Reason.DOMAIN_NOT_ALLOWED, f"{domain} is not in allowed_domains")
    if policy.only_domains is not None and not any_matches(policy.only_domains, intent.origin):
        return Deny(Reason.DOMAIN_NOT_ALLOWED, f"{domain} is not in the narrower list that is in force")
    if standing.quarantined:
        return Deny(Reason.HOST_QUARANTINED, f"{domain} took payments in a row without delivering")
    if intent.prepaid and not any(rule.applies_to(intent) for rule in policy.prepay):
        return Deny(Reason.PREPAY_NOT_ALLOWED, f"no rule for {intent.method} at {domain}")
    return None


def cheapest(intent: Intent, policy: Policy, payer: str, pin: Pin | None = None) -> Offer | Deny:
    """The payable offer that costs least in micro-USD (the seller's order decides a tie), or why there is none.

    Offers in the terms that are pinned for the host come before all others: a new way to pay is nothing a
    program should take by itself while the old one is still there.
    """
    if isinstance(intent.limits, Unpayable):
        return Deny(intent.limits.reason, intent.limits.detail)
    payable, against = _sort(intent, policy, payer)
    if payable:
        payable = intent.limits.preferred(payable)
        as_pinned = [offer for offer in payable if pin is not None and pin.holds(offer)]
        return min(as_pinned or payable, key=lambda offer: offer.usd_micros)
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


def approval_id(intent: Intent, offer: Offer) -> str:
    """What a person approves: this caller paying these terms for this method and path of this host."""
    terms = [offer.asset.network, offer.asset.address, offer.pay_to, str(offer.amount)]
    parts = [intent.caller, intent.domain, intent.method, intent.path, *terms]
    return hashlib.sha256(b"osmoda-approval/v1\n" + json.dumps(parts).encode()).hexdigest()[:40]


def _as_pinned(standing: Standing, offer: Offer) -> bool:
    """Whether recipient and token are those of the first payment to the host, at no more than the path's first price."""
    pin, price = standing.pin, standing.pinned_price
    return pin is not None and pin.holds(offer) and price is not None and offer.usd_micros <= price


def _limits(intent: Intent, policy: Policy, standing: Standing, offer: Offer) -> Iterator[Deny]:
    domain, price = intent.domain, format_usd(offer.usd_micros)
    if offer.usd_micros > policy.max_payment:
        yield Deny(Reason.CAP_PER_PAYMENT, f"{price} USD > {format_usd(policy.max_payment)} USD for {domain}")
    if policy.payments_per_minute is not None and standing.last_minute >= policy.payments_per_minute:
        yield Deny(Reason.RATE_LIMIT, f"{standing.last_minute} payments in the last minute")
    for reason, limit, used, whose in _budgets(intent, policy, standing.spent):
        if limit is not None and used + offer.usd_micros > limit:
            figures = f"{format_usd(used)} of {format_usd(limit)} USD are spent today{whose}"
            yield Deny(reason, f"{price} USD for {domain} does not fit: {figures}")
    if standing.session is not None and (excess := _beyond_session(standing.session, offer)):
        yield Deny(Reason.BUDGET_SESSION, f"{price} USD for {domain} does not fit: {excess}")


def _budgets(intent: Intent, policy: Policy, spent: Spent) -> Iterator[tuple[Reason, int | None, int, str]]:
    """(reason, limit, spent, whose) of every budget that this intent counts against."""
    at, by = f" at {intent.domain}", f" by {intent.caller}"
    both = policy.daily_budget_per_caller_and_domain
    yield Reason.BUDGET_DAILY, policy.daily_budget, spent.total, ""
    yield Reason.BUDGET_DOMAIN, policy.daily_budget_per_domain, spent.domain, at
    yield Reason.BUDGET_CALLER, policy.daily_budget_per_caller, spent.caller, by
    yield Reason.BUDGET_CALLER_DOMAIN, both, spent.caller_and_domain, by + at
    for rule in policy.budgets:
        if not rule.applies_to(intent):
            continue
        if rule.caller is None:
            yield Reason.BUDGET_DOMAIN, rule.daily, spent.domain, at
        elif rule.domain is None:
            yield Reason.BUDGET_CALLER, rule.daily, spent.caller, by
        else:
            yield Reason.BUDGET_CALLER_DOMAIN, rule.daily, spent.caller_and_domain, by + at


def _beyond_session(session: SessionStanding, offer: Offer) -> str | None:
    if session.payments >= MAX_SESSION_PAYMENTS:
        return f"session {session.label} made {session.payments} payments"
    if session.spent + offer.usd_micros <= session.budget:
        return None
    figures = f"{format_usd(session.spent)} of {format_usd(session.budget)} USD"
    return f"{figures} are spent in session {session.label}"


def _holds(intent: Intent, policy: Policy, standing: Standing, offer: Offer) -> Iterator[tuple[Reason, str]]:
    """Every reason to ask a person, who says yes or no to all of them at once."""
    pin = standing.pin
    if policy.pin and pin is not None:
        if (offer.asset.network, offer.asset.address) != (pin.network, pin.asset):
            yield Reason.PIN_ASSET, f"it was {pin.asset} on {pin.network} when first paid"
        if offer.pay_to != pin.pay_to:
            yield Reason.PIN_PAY_TO, f"it was paid to {pin.pay_to} at first"
        first = standing.pinned_price
        if first is not None and offer.usd_micros * 1000 > first * policy.pin_price_factor_milli:
            yield Reason.PIN_PRICE, f"it cost {format_usd(first)} USD at first"
    if policy.approve_above is not None and offer.usd_micros > policy.approve_above:
        yield Reason.APPROVAL_REQUIRED, f"it is above {format_usd(policy.approve_above)} USD"
    if policy.approve_first_seen and pin is None:
        yield Reason.APPROVAL_REQUIRED, "it would be the first payment to this host"


def _terms(intent: Intent, offer: Offer) -> str:
    """What a person is asked to pay. The figures come first and the path, which strangers choose, last and clipped:
    nothing may push the price out of sight."""
    amount = format_token_amount(offer.amount, offer.asset.decimals)
    price = f"{amount} {offer.asset} ({format_usd(offer.usd_micros)} USD)"
    path = ascii(intent.path[:MAX_SHOWN_PATH])[1:-1]
    return f"{price} to {offer.pay_to} for {intent.caller} at {intent.domain}, {intent.method} {path}"


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
            Reason.ASSET_NOT_ALLOWED,
            Reason.PAY_TO_NOT_ALLOWED,
            Reason.APP_LIMIT,
        ]
    )
}
"""How far an offer came in `keyd.core.offers.judge` and here; a test keeps the two in step."""


def _sort(intent: Intent, policy: Policy, payer: str) -> tuple[list[Offer], list[Unpayable]]:
    payable: list[Offer] = []
    against: list[Unpayable] = []
    recipients = policy.pay_to.get(intent.domain)
    for terms in intent.offers:
        verdict = (
            terms if isinstance(terms, Unpayable) else judge(terms, policy.assets, policy.networks, payer)
        )
        if isinstance(verdict, Unpayable):
            against.append(verdict)
        elif not _asset_allowed(policy, verdict):
            against.append(Unpayable(Reason.ASSET_NOT_ALLOWED, f"{verdict.asset} is not in allowed_assets"))
        elif recipients is not None and verdict.pay_to not in recipients:
            detail = f"{verdict.pay_to} is not a recipient listed for {intent.domain}"
            against.append(Unpayable(Reason.PAY_TO_NOT_ALLOWED, detail))
        elif (excess := _beyond_app_cap(intent, verdict)) is not None:
            against.append(Unpayable(Reason.APP_LIMIT, excess))
        else:
            payable.append(verdict)
    return payable, against


def _asset_allowed(policy: Policy, offer: Offer) -> bool:
    return policy.allowed_assets is None or any(t.names(offer.asset) for t in policy.allowed_assets)


def _beyond_app_cap(intent: Intent, offer: Offer) -> str | None:
    limits = intent.limits
    if isinstance(limits, Unpayable):
        return limits.detail
    return None if limits.cap is None else limits.cap.against(offer)
