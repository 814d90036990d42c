"""The policy in words: what is in force and what was spent, and what a change did to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice

import click

from keyd import api
from keyd.cli.program import as_called
from keyd.cli.render import count, escaped, listed, moment, usd

DEAREST = 3  # domains that are named in the first sentence; `keyctl x402 spend` lists all


def policy_text(view: api.PolicyView) -> str:
    """The policy for people: what stops payments, then the money and where it went, then the limits."""
    return "\n".join([*_states(view), _spent(view), "", listed(list(_limits(view))), *_notes(view)])


def frozen_line(frozen: api.Frozen) -> str:
    """Who froze payments, when and why."""
    since = "" if frozen.since is None else f" since {moment(frozen.since)}"
    by = "" if frozen.by is None else f" by {escaped(frozen.by)}"
    why = f": {escaped(frozen.reason)}" if frozen.reason else ""
    return f"{click.style('Payments are frozen', fg='red', bold=True)}{since}{by}{why}."


def change_lines(before: api.PolicyView, after: api.PolicyView) -> list[str]:
    """What differs between two views of the policy, a line each; empty if nothing does."""
    return [
        *(f"{name}: {old} → {new}" for name, old, new in _figures(before, after) if old != new),
        *_list_changes("allowed domains", before.allowed_domains, after.allowed_domains),
        *_list_changes("denied domains", before.denied_domains, after.denied_domains),
        *_list_changes("only domains", before.only_domains or [], after.only_domains or []),
        *_list_changes("sign-in domains", before.signin_domains, after.signin_domains),
        *_budget_changes(before.budgets, after.budgets),
    ]


def whose(domain: str | None, caller: str | None) -> str:
    """ "at api.example.com by uid:1000" for a budget rule or an amount."""
    parts = [f"at {domain}" if domain else "", f"by {caller}" if caller else ""]
    return escaped(" ".join(part for part in parts if part))


def _states(view: api.PolicyView) -> Iterator[str]:
    if view.frozen.frozen:
        yield frozen_line(view.frozen)
    if not view.enabled:
        yield click.style("Payments are switched off.", fg="yellow")


def _spent(view: api.PolicyView) -> str:
    figures = (
        f"You have spent {click.style(usd(view.spent_today), bold=True)} of {usd(view.daily_budget)} today "
        f"({escaped(view.day)} UTC), {usd(view.left_today)} left"
    )
    dearest = [
        f"{escaped(spend.domain)} {usd(spend.usd)} ({count(spend.calls, 'call')})"
        for spend in islice(view.by_domain, DEAREST)
    ]
    more = len(view.by_domain) - len(dearest)
    rest = [f"and {count(more, 'other domain')}"] if more else []
    return figures + (f": {', '.join([*dearest, *rest])}." if dearest else ".")


def _limits(view: api.PolicyView) -> Iterator[tuple[str, str]]:
    for spend in view.by_caller:
        yield "spent by", f"{escaped(spend.caller)} {usd(spend.usd)} ({count(spend.calls, 'call')})"
    yield "per payment", f"at most {usd(view.max_payment)}"
    for rule in view.budgets:
        words = whose(rule.domain, rule.caller)
        yield "budget", f"{usd(rule.spent_today)} of {usd(rule.daily)} spent today {words}"
    if view.payments_per_minute is not None:
        yield "per minute", f"at most {count(view.payments_per_minute, 'payment')}"
    if approvals := _approvals(view):
        yield "approval", approvals
    yield "allowed domains", _joined(view.allowed_domains)
    if view.only_domains is not None:
        yield "of these only", _joined(view.only_domains)
    if view.denied_domains:
        yield "denied domains", _joined(view.denied_domains)
    if view.signin_domains:
        yield "sign-in at", _joined(view.signin_domains)
    for prepay in view.prepay:
        words = f"{', '.join(prepay.methods)} at {escaped(prepay.domain)}"
        yield "prepaid", f"{words}, after {count(prepay.after, 'equal 402')} in a row"
    if "*" not in view.callers:
        yield "callers", _joined(view.callers)
    if view.session_required:
        yield "in a session only", _joined(view.session_required)
    yield "networks", _joined(view.networks)
    yield "assets", _joined(view.assets)
    yield "wallet", escaped(f"{view.default_wallet_label}  {view.wallet or '(does not exist yet)'}")
    for name, value in view.overrides.items():
        yield "override", escaped(f"{name} = {json.dumps(value, ensure_ascii=False)}")


def _notes(view: api.PolicyView) -> Iterator[str]:
    if not view.enforce:
        yield ""
        yield click.style(
            "Overrides are only tried out (enforce = false): keyd.toml alone decides, and the ledger says what they "
            "would have refused.",
            fg="yellow",
        )
    if view.pending:
        waits = "waits" if len(view.pending) == 1 else "wait"
        yield ""
        yield as_called(f"{len(view.pending)} {waits} for approval: `keyctl x402 pending` shows what.")


def _approvals(view: api.PolicyView) -> str:
    parts = [] if view.approve_above is None else [f"above {usd(view.approve_above)}"]
    parts += ["before the first payment to a host"] if view.approve_first_seen else []
    return ", and ".join(parts)


def _figures(before: api.PolicyView, after: api.PolicyView) -> Iterator[tuple[str, str, str]]:
    """(name, before, after) of everything that is one value."""
    yield "payments", _switch(before.enabled), _switch(after.enabled)
    yield "daily budget", usd(before.daily_budget), usd(after.daily_budget)
    yield "per payment", usd(before.max_payment), usd(after.max_payment)
    yield "approval above", _or_none(before.approve_above), _or_none(after.approve_above)
    yield "per minute", _rate(before.payments_per_minute), _rate(after.payments_per_minute)


def _list_changes(name: str, before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    yield from (f"{name}: + {escaped(item)}" for item in after if item not in before)
    yield from (f"{name}: - {escaped(item)}" for item in before if item not in after)


def _budget_changes(before: Sequence[api.BudgetView], after: Sequence[api.BudgetView]) -> Iterator[str]:
    old = {(rule.domain, rule.caller): usd(rule.daily) for rule in before}
    new = {(rule.domain, rule.caller): usd(rule.daily) for rule in after}
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield f"budget {whose(*key)}: {old.get(key, 'none')} → {new.get(key, 'none')}"


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _or_none(amount: str | None) -> str:
    return "none" if amount is None else usd(amount)


def _rate(limit: int | None) -> str:
    return "no limit" if limit is None else str(limit)


def _joined(items: Sequence[str]) -> str:
    return ", ".join(escaped(item) for item in items) or "none"
