"""What another policy would have paid and refused: the ledger's past offers, judged again. Pure.

The replay decides with `keyd.core.policy.decide`, as keyd does, and keeps its own account of what it spent, pinned and
counted, in the order of the ledger. Freezes, approvals and resets are those that people really made.

What it cannot know: whether a person would have approved what it holds; how a seller would have answered what was
never sent; what a program would have done after another answer. Every attempt counts by itself, so a program that
was refused and tried ten times is paid ten times in a replay under a looser policy.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from keyd import api
from keyd.core.evidence import BLAMELESS, no_answer
from keyd.core.intent import Intent, read_limits
from keyd.core.offers import Offer, PaymentRequirements, Unpayable
from keyd.core.policy import Allow, Deny, Pin, Policy, Spent, Standing, decide
from keyd.reasons import Reason

RATE_WINDOW_S: Final = 60

NOT_REPLAYED: Final = frozenset(
    {Reason.WALLET_MISSING, Reason.WALLET_UNREADABLE, Reason.SESSION_INVALID, Reason.BUDGET_SESSION}
)
"""Refusals that no policy decides: they stand as they were."""

REPEATS: Final = frozenset({Reason.COOL_DOWN, Reason.INTENT_OPEN_TERMS_CHANGED, Reason.INTENT_UNRESOLVED})
"""Refusals of the repeat of a payment. A repeat costs nothing and is no purchase of its own: it is left out."""


class LedgerEntry(Protocol):
    """What the replay reads of an entry; `keyd.api.LedgerEntry` and `ledger.entry.Entry` have it."""

    @property
    def seq(self) -> int: ...
    @property
    def ts(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Paid, or refused with a code."""

    code: str | None
    """None: paid."""
    usd_micros: int
    """What it cost; 0 if it was refused."""

    @property
    def paid(self) -> bool:
        return self.code is None

    def __str__(self) -> str:
        return "paid" if self.code is None else self.code


@dataclass(frozen=True, slots=True)
class Difference:
    """An attempt that one policy paid and the other refused, or that costs another amount."""

    seq: int
    """Entry number of the attempt."""
    ts: str
    domain: str
    caller: str
    was: Verdict
    would_be: Verdict


@dataclass(slots=True)
class Totals:
    """What came of the attempts. Micro-USD."""

    paid: int = 0
    refused: int = 0
    usd_micros: int = 0

    def add(self, verdict: Verdict) -> None:
        self.paid += verdict.paid
        self.refused += not verdict.paid
        self.usd_micros += verdict.usd_micros


@dataclass(slots=True)
class Replay:
    """The result. Only attempts from the first day on are counted; earlier ones set pins and nothing else here."""

    was: Totals = field(default_factory=Totals)
    would_be: Totals = field(default_factory=Totals)
    differences: list[Difference] = field(default_factory=list)
    repeats: int = 0
    """Attempts left out, because they repeated a payment that was open."""
    other_reason: int = 0
    """Refused then and now, with another code."""


def replay(entries: Iterable[LedgerEntry], policy: Policy, payer: str, since: str = "0000-00-00") -> Replay:
    """The whole ledger, oldest entry first, under `policy`. `payer` is the address of the wallet that pays."""
    replayer = Replayer(policy, payer, since)
    for entry in entries:
        replayer.add(entry)
    return replayer.result


class Replayer:
    """`replay`, entry by entry, for a ledger that does not fit into memory."""

    def __init__(self, policy: Policy, payer: str, since: str = "0000-00-00") -> None:
        self.result = Replay()
        self._policy = policy
        self._payer = payer
        self._since = since
        self._attempt: LedgerEntry | None = None
        self._state = _State()

    def add(self, entry: LedgerEntry) -> None:
        """The next entry, in the order of the ledger. Types that decide nothing are passed over."""
        self._state.fold_people(entry)
        if entry.type == "x402.payment.attempt":
            self._attempt = entry
        elif entry.type in ("x402.payment.signed", "x402.payment.rejected"):
            attempt, self._attempt = self._attempt, None
            # keyd writes a verdict in the same transaction as its attempt, so they follow each other.
            if attempt is not None and entry.data.get("attempt") == attempt.seq:
                self._judge(attempt, entry)
        elif entry.type.startswith("x402.payment."):
            self._state.fold_outcome(entry)

    def _judge(self, attempt: LedgerEntry, verdict: LedgerEntry) -> None:
        was = _as_recorded(verdict)
        if attempt.data["repeat_of"] is not None or was.code in REPEATS:
            self.result.repeats += self._day(attempt) >= self._since
            return
        if attempt.data.get("prepaid") and not was.paid:
            return  # a guess of egress's, ahead of the real question, which follows
        would_be, day = self._decide(attempt, verdict, was), self._day(attempt)
        if day < self._since:
            return
        self.result.was.add(was)
        self.result.would_be.add(would_be)
        if (was.paid, was.usd_micros) != (would_be.paid, would_be.usd_micros):
            caller, domain = attempt.data["caller"], attempt.data["domain"]
            self.result.differences.append(Difference(attempt.seq, attempt.ts, domain, caller, was, would_be))
        elif was.code != would_be.code:
            self.result.other_reason += 1

    def _decide(self, attempt: LedgerEntry, verdict: LedgerEntry, was: Verdict) -> Verdict:
        if was.code in NOT_REPLAYED:
            return was
        intent, now_s, day = intent_of(attempt.data), _seconds(attempt.ts), self._day(attempt)
        policy = self._policy
        if attempt.data.get("session") is not None:  # it had one, whose budget is not replayed
            policy = replace(policy, session_required=frozenset())
        standing = self._state.standing(intent, policy, now_s, day)
        decision = decide(intent, policy, payer=self._payer, standing=standing)
        if isinstance(decision, Deny):
            return Verdict(decision.reason.value, 0)
        self._state.pay(intent, decision, verdict.data.get("payment_id"), now_s, day)
        return Verdict(None, decision.offer.usd_micros)

    def _day(self, attempt: LedgerEntry) -> str:
        return attempt.ts[:10]


def intent_of(data: Mapping[str, Any]) -> Intent:
    """The intent that `x402.payment.attempt` recorded: the inverse of `Intent.record`, but for what it leaves out."""
    return Intent(
        origin=_origin(data["domain"]),
        method=data["method"],
        path=data["path"],
        caller=data["caller"],
        fingerprint=data["fingerprint"],
        key=data["intent"],
        x402_version=data["x402_version"],
        offers=tuple(_terms(index, offer) for index, offer in enumerate(data["offers"])),
        resource_url=data["resource_url"],
        wallet_id=None,
        limits=read_limits(data.get("max_spend"), data.get("prefer")),
    )


_BLAMELESS: Final = frozenset(map(no_answer, BLAMELESS))
"""Notes on an outcome (`keyd.core.evidence.weigh`) that say nothing about the host."""


@dataclass(slots=True)
class _Paid:
    """A payment of the replay that was really made too, so that its outcome is known."""

    domain: str
    caller: str
    day: str
    usd_micros: int
    reported: bool = False
    delivered: bool = False
    released: bool = False


@dataclass(slots=True)
class _State:
    """What the decision has to know, as the replayed policy would have left it."""

    spent: dict[tuple[str | None, str | None], dict[str, int]] = field(default_factory=dict)
    """(domain, caller) → day → micro-USD; None: of all."""
    pins: dict[str, Pin] = field(default_factory=dict)
    prices: dict[tuple[str, str, str], int] = field(default_factory=dict)
    trouble: dict[str, int] = field(default_factory=dict)
    signed_at: list[int] = field(default_factory=list)
    """In ascending order, which is not always that of signing: a clock may be set back."""
    approvals: dict[str, int] = field(default_factory=dict)
    frozen: bool = False
    paid: dict[str, _Paid] = field(default_factory=dict)

    def standing(self, intent: Intent, policy: Policy, now_s: int, day: str) -> Standing:
        domain, caller = intent.domain, intent.caller
        after = policy.quarantine_after
        return Standing(
            spent=Spent(
                total=self._spent_on(day),
                domain=self._spent_on(day, domain=domain),
                caller=self._spent_on(day, caller=caller),
                caller_and_domain=self._spent_on(day, domain=domain, caller=caller),
            ),
            last_minute=len(self.signed_at) - bisect_right(self.signed_at, now_s - RATE_WINDOW_S),
            frozen=self.frozen,
            quarantined=after is not None and self.trouble.get(domain, 0) >= after,
            pin=self.pins.get(domain),
            pinned_price=self.prices.get((domain, intent.method, intent.path)),
            approved=frozenset(key for key, until in self.approvals.items() if now_s <= until),
        )

    def pay(self, intent: Intent, decision: Allow, payment_id: str | None, now_s: int, day: str) -> None:
        """As if it were signed: counted, pinned, and the approval used up."""
        offer, domain = decision.offer, intent.domain
        payment = _Paid(domain, intent.caller, day, offer.usd_micros)
        self._spend(payment, offer.usd_micros)
        insort(self.signed_at, now_s)
        if payment_id is not None:
            self.paid[payment_id] = payment
        if domain not in self.pins or decision.approval is not None:
            self.pins[domain] = _pin(offer)
        price_key = (domain, intent.method, intent.path)
        if intent.path and (price_key not in self.prices or decision.approval is not None):
            self.prices[price_key] = offer.usd_micros
        if decision.approval is not None:
            del self.approvals[decision.approval]

    def fold_people(self, entry: LedgerEntry) -> None:
        """Freezes, approvals and resets. Their facts are named as in keyd.facts.Kind."""
        for fact in entry.data.get("facts", ()):
            if fact["kind"] == "frozen":
                self.frozen = fact["value"] is not None
            elif fact["kind"] == "approval" and fact["value"] is not None:
                self.approvals[fact["key"]] = fact["value"]
        if entry.type == "x402.policy.changed" and "reset" in entry.data:
            domain = entry.data["reset"]
            self.pins.pop(domain, None)
            self.trouble.pop(domain, None)
            self.prices = {key: price for key, price in self.prices.items() if key[0] != domain}

    def fold_outcome(self, entry: LedgerEntry) -> None:
        """What became of a payment, if the replay made it too."""
        payment = self.paid.get(entry.data["payment_id"])
        if payment is None:
            return
        proven, state = entry.data.get("proof") is not None, entry.type.rpartition(".")[2]
        payment.delivered = payment.delivered or entry.data.get("delivered") is True
        if state == "released" and not payment.released:
            payment.released = True
            self._spend(payment, -payment.usd_micros)
        elif state == "settled" and proven and payment.released:  # the proof of the release was false
            payment.released = False
            self._spend(payment, payment.usd_micros)
        if state == "settled" and payment.delivered and (proven or not payment.reported):
            self.trouble.pop(payment.domain, None)
        elif not proven and not payment.reported and _BLAMELESS.isdisjoint(entry.data.get("notes", ())):
            self.trouble[payment.domain] = self.trouble.get(payment.domain, 0) + 1
        payment.reported = True

    def _spend(self, payment: _Paid, usd_micros: int) -> None:
        for domain in (None, payment.domain):
            for caller in (None, payment.caller):
                days = self.spent.setdefault((domain, caller), {})
                days[payment.day] = days.get(payment.day, 0) + usd_micros

    def _spent_on(self, day: str, *, domain: str | None = None, caller: str | None = None) -> int:
        days = self.spent.get((domain, caller), {})
        return sum(usd_micros for other, usd_micros in days.items() if other >= day)


def _as_recorded(verdict: LedgerEntry) -> Verdict:
    if verdict.type == "x402.payment.signed":
        return Verdict(None, verdict.data["usd_micros"])
    return Verdict(verdict.data["code"], 0)


def _origin(domain: str) -> api.Origin:
    """The inverse of `Intent.domain`: "api.example.com", "host:8443", "http://127.0.0.1:4021", "[::1]:8443"."""
    scheme = "http" if domain.startswith("http://") else "https"
    authority = domain.removeprefix("http://")
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    fields = {
        "scheme": scheme,
        "host": host,
        "port": int(port) if port else {"http": 80, "https": 443}[scheme],
    }
    return api.Origin.model_validate(fields)


def _terms(index: int, offer: Mapping[str, Any]) -> PaymentRequirements | Unpayable:
    if "malformed" in offer:
        return Unpayable(Reason.OFFER_MALFORMED, offer["malformed"])
    return PaymentRequirements(
        index=index,
        scheme=offer["scheme"],
        network=offer["network"],
        amount=offer["amount"],
        asset=offer["asset"],
        pay_to=offer["pay_to"],
        max_timeout_seconds=offer["max_timeout_seconds"],
        extra=offer.get("extra", {}),
    )


def _pin(offer: Offer) -> Pin:
    return Pin(offer.asset.network, offer.asset.address, offer.pay_to)


def _seconds(ts: str) -> int:
    return int(datetime.fromisoformat(ts).astimezone(UTC).timestamp())
