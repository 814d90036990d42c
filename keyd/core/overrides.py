"""What administrators and agents changed at run time, on top of keyd.toml. Pure.

    policy in force = overrides applied to the base

Administrators change within [x402.limits]; agents may only make it tighter, anything wider becomes a proposal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from keyd import api
from keyd.core.money import format_usd, parse_usd
from keyd.core.policy import BudgetRule, Policy
from keyd.domains import DomainPattern

type Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """[x402.limits]: how far overrides may go. Micro-USD; None: no limit beyond the administrator's judgement."""

    daily_budget: int | None = None
    max_payment: int | None = None
    payments_per_minute: int | None = None
    domains: tuple[DomainPattern, ...] | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """The overrides in force; None: as in the base. Amounts in micro-USD, domains as written."""

    enabled: bool | None = None
    daily_budget: int | None = None
    max_payment: int | None = None
    payments_per_minute: int | None = None
    approve_above: int | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    signin: tuple[str, ...] = ()
    """Domains where we may sign in."""
    budgets: tuple[BudgetRule, ...] = ()

    def size(self) -> int:
        """Domains and budgets, all together."""
        return len(self.allow) + len(self.deny) + len(self.only or ()) + len(self.signin) + len(self.budgets)

    def as_document(self) -> Document:
        """For the ledger and for overrides.toml: only what is set, money as decimal strings."""
        document: Document = {}
        if self.enabled is not None:
            document["enable"] = self.enabled
        for name, micros in (
            ("daily_budget_usd", self.daily_budget),
            ("max_payment_usd", self.max_payment),
            ("approve_above_usd", self.approve_above),
        ):
            if micros is not None:
                document[name] = format_usd(micros)
        if self.payments_per_minute is not None:
            document["payments_per_minute"] = self.payments_per_minute
        for name, domains in (
            ("allow", self.allow),
            ("deny", self.deny),
            ("only", self.only),
            ("signin", self.signin),
        ):
            if domains or (name == "only" and domains is not None):
                document[name] = list(domains)
        if self.budgets:
            document["budgets"] = [_rule_document(rule) for rule in self.budgets]
        return document

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """The inverse of `as_document`; raises KeyError, TypeError or ValueError for anything else."""
        micros = {name: parse_usd(text) for name, text in document.items() if name.endswith("_usd")}
        only = document.get("only")
        return cls(
            enabled=document.get("enable"),
            daily_budget=micros.get("daily_budget_usd"),
            max_payment=micros.get("max_payment_usd"),
            payments_per_minute=document.get("payments_per_minute"),
            approve_above=micros.get("approve_above_usd"),
            allow=tuple(document.get("allow", ())),
            deny=tuple(document.get("deny", ())),
            only=None if only is None else tuple(only),
            signin=tuple(document.get("signin", ())),
            budgets=tuple(
                BudgetRule(rule.get("domain"), rule.get("caller"), parse_usd(rule["daily_usd"]))
                for rule in document.get("budgets", ())
            ),
        )

    def patched(self, patch: api.PolicyPatch) -> Overrides:
        """These overrides with `patch` on top. Raises ValueError for an amount or a domain it cannot read."""
        allow = [_normal(text) for text in patch.allow]
        deny = [_normal(text) for text in patch.deny]
        budgets = {(rule.domain, rule.caller): rule for rule in self.budgets}
        for change in patch.budgets:
            key = (None if change.domain is None else one_domain(change.domain), change.caller)
            if key == (None, None):
                raise ValueError("a budget names a domain, a caller, or both")
            budgets.pop(key, None)
            if change.daily_usd is not None:
                budgets[key] = BudgetRule(*key, parse_usd(change.daily_usd))
        return replace(
            self,
            enabled=self.enabled if patch.enable is None else patch.enable,
            daily_budget=_usd_or(patch.daily_budget_usd, self.daily_budget),
            max_payment=_usd_or(patch.max_payment_usd, self.max_payment),
            approve_above=_usd_or(patch.approve_above_usd, self.approve_above),
            payments_per_minute=(
                self.payments_per_minute if patch.payments_per_minute is None else patch.payments_per_minute
            ),
            allow=_merged(self.allow, add=allow, remove=deny),
            deny=_merged(self.deny, add=deny, remove=allow),
            only=self.only if patch.only is None else tuple(_normal(text) for text in patch.only),
            signin=_merged(
                self.signin,
                add=[one_domain(text) for text in patch.signin_allow],
                remove=[one_domain(text) for text in patch.signin_deny],
            ),
            budgets=tuple(budgets.values()),
        )


def apply(base: Policy, overrides: Overrides) -> Policy:
    """The policy in force."""
    only = overrides.only
    rules = {(rule.domain, rule.caller): rule for rule in (*base.budgets, *overrides.budgets)}
    return replace(
        base,
        enabled=base.enabled if overrides.enabled is None else overrides.enabled,
        daily_budget=_or(overrides.daily_budget, base.daily_budget),
        max_payment=_or(overrides.max_payment, base.max_payment),
        payments_per_minute=_or(overrides.payments_per_minute, base.payments_per_minute),
        approve_above=_or(overrides.approve_above, base.approve_above),
        allowed_domains=base.allowed_domains + _patterns(overrides.allow),
        denied_domains=base.denied_domains + _patterns(overrides.deny),
        only_domains=base.only_domains if only is None else _patterns(only),
        signin_domains=overrides.signin,
        budgets=tuple(rules.values()),
    )


def wider(before: Policy, after: Policy) -> list[str]:
    """In words, everything that `after` permits beyond `before`; empty if it only tightens."""
    return list(_widenings(before, after))


def beyond(policy: Policy, base: Policy, limits: Limits) -> list[str]:
    """In words, where `policy` exceeds the limits that the base sets for overrides. The base itself never does."""
    found = []
    for name, limit, value in (
        ("daily budget", limits.daily_budget, policy.daily_budget),
        ("payment cap", limits.max_payment, policy.max_payment),
    ):
        if limit is not None and value > limit:
            found.append(f"{name} {format_usd(value)} USD > {format_usd(limit)} USD")
    if _exceeds(policy.payments_per_minute, limits.payments_per_minute):
        found.append(f"payments per minute > {limits.payments_per_minute}")
    if limits.domains is not None:
        within = (*base.allowed_domains, *limits.domains)
        found += [f"domain {p} is not within the limits" for p in policy.allowed_domains if p not in within]
    return found


def _widenings(before: Policy, after: Policy) -> Iterator[str]:
    if after.enabled and not before.enabled:
        yield "switches payments on"
    for name, old, new in (
        ("daily budget", before.daily_budget, after.daily_budget),
        ("payment cap", before.max_payment, after.max_payment),
        ("approval threshold", before.approve_above, after.approve_above),
    ):
        if _exceeds(new, old):
            now = "none" if new is None else f"{format_usd(new)} USD"
            yield f"raises the {name} to {now}"
    if _exceeds(after.payments_per_minute, before.payments_per_minute):
        yield "allows more payments per minute"
    for pattern in after.allowed_domains:
        if pattern not in before.allowed_domains:
            yield f"allows {pattern}"
    for domain in after.signin_domains:
        if domain not in before.signin_domains:
            yield f"lets wallets sign in to {domain}"
    for pattern in before.denied_domains:
        if pattern not in after.denied_domains:
            yield f"no longer denies {pattern}"
    if before.only_domains is not None and not set(after.only_domains or ()) <= set(before.only_domains):
        yield "widens the narrower list of domains"
    if before.only_domains is not None and after.only_domains is None:
        yield "drops the narrower list of domains"
    yield from _budget_widenings(before, after)


def _budget_widenings(before: Policy, after: Policy) -> Iterator[str]:
    now = {(rule.domain, rule.caller): rule.daily for rule in after.budgets}
    for rule in before.budgets:
        limit = now.get((rule.domain, rule.caller))
        if _exceeds(limit, rule.daily):
            whose = " at ".join(part for part in (rule.caller, rule.domain) if part)
            yield f"raises the budget of {whose}"


def _exceeds(value: int | None, limit: int | None) -> bool:
    """None is no limit at all, so it exceeds every limit."""
    return limit is not None and (value is None or value > limit)


def _or[T](value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _usd_or(text: str | None, otherwise: int | None) -> int | None:
    return otherwise if text is None else parse_usd(text)


def one_domain(text: str) -> str:
    """A domain as the record spells it. Raises ValueError for a pattern: budgets and recipients go with one domain."""
    pattern = DomainPattern.parse(text)
    if pattern.subdomains or pattern.port is None:
        raise ValueError(f"{text!r}: name one domain here, not a pattern")
    return str(pattern)


def _normal(text: str) -> str:
    return str(DomainPattern.parse(text))


def _patterns(texts: tuple[str, ...]) -> tuple[DomainPattern, ...]:
    return tuple(DomainPattern.parse(text) for text in texts)


def _merged(before: tuple[str, ...], *, add: list[str], remove: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(d for d in before if d not in remove), *add]))


def _rule_document(rule: BudgetRule) -> Document:
    named = {"domain": rule.domain, "caller": rule.caller}
    return {k: v for k, v in named.items() if v is not None} | {"daily_usd": format_usd(rule.daily)}
