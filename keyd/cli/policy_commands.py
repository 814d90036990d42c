"""`keyctl x402 policy` and what changes it: allow, deny, budget, cap, reset, freeze, unfreeze."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Final

import click
from pydantic import TypeAdapter, ValidationError

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError
from keyd.cli.policy_text import change_lines, frozen_line, policy_text
from keyd.cli.program import as_called
from keyd.cli.render import escaped, moment
from keyd.client import KeydClient
from keyd.domains import DomainPattern

EXIT_PROPOSED: Final = 3
"""Nothing was changed yet: the change waits for an administrator. A script must not take it for done."""

_USD: TypeAdapter[str] = TypeAdapter(api.Usd)
_CALLER: Final = re.compile(r"uid:[0-9]{1,10}|proxy:[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
"""As `str(api.Caller)` has it."""
_MAX_REASON: Final = 200  # characters, as api.Freeze has it


class UsdAmount(click.ParamType[str]):
    """A decimal amount of the contract; refused here, before anybody is asked."""

    name = "usd"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return _USD.validate_python(value)
        except ValidationError:
            self.fail(
                f'{value!r} is not a USD amount: write it like "1.00", at most six decimal places', param, ctx
            )


class CoveringPattern(click.ParamType[DomainPattern]):
    """One domain, or a pattern for many, as `allowed_domains` has it."""

    name = "domain"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> DomainPattern:
        try:
            return DomainPattern.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RecordedDomain(click.ParamType[str]):
    """One domain as the ledger names it; a pattern would be a rule that never applies."""

    name = "domain"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        pattern = CoveringPattern().convert(value, param, ctx)
        if pattern.subdomains or pattern.port is None:
            self.fail(f"{value!r} stands for many domains; name one", param, ctx)
        return str(pattern)


class RecordedCaller(click.ParamType[str]):
    """A caller as the ledger names it; under another name the rule would never apply."""

    name = "caller"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.isascii() and value.isdecimal():
            return f"uid:{int(value)}"
        if _CALLER.fullmatch(value) is None:
            self.fail(
                f"{value!r} is not how the ledger names a caller: `uid:1000` or `proxy:NAME`", param, ctx
            )
        return value


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON; USD amounts are strings.")
@invocation
def policy(run: Invocation, as_json: bool) -> None:
    """Show what is allowed, what was spent today, and what is left."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = run.ask(KeydClient.policy)
    click.echo(view.model_dump_json(indent=2) if as_json else policy_text(view))


@click.command()
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN…", type=CoveringPattern())
@invocation
def allow(run: Invocation, domains: tuple[DomainPattern, ...]) -> int:
    """Let these domains be paid: `api.example.com`, `*.example.com`, `http://host:port`, or `*`.

    A domain that `keyctl x402 deny` denied is taken from that list. Exit code 3: filed as a proposal, not in force.
    """
    return change(run, api.PolicyPatch(allow=_at_most_100(domains)))


@click.command()
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN…", type=CoveringPattern())
@invocation
def deny(run: Invocation, domains: tuple[DomainPattern, ...]) -> int:
    """Never pay these domains, whatever else allows them. Written as for `allow`."""
    return change(run, api.PolicyPatch(deny=_at_most_100(domains)))


@click.group()
def signin() -> None:
    """Hosts to sign in to instead of paying again; off for every host until allowed.

    Only where the same wallet has paid before: it proves to the host who pays. Nothing is paid by signing in.
    """


@signin.command("allow")
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN…", type=RecordedDomain())
@invocation
def signin_allow(run: Invocation, domains: tuple[str, ...]) -> int:
    """Let egress sign in to these domains, written like `api.example.com`. Exit code 3: filed as a proposal, not in force."""
    return change(run, api.PolicyPatch(signin_allow=_at_most_100(domains)))


@signin.command("deny")
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN…", type=RecordedDomain())
@invocation
def signin_deny(run: Invocation, domains: tuple[str, ...]) -> int:
    """Sign in to these domains no more; they are paid again. Agents may, too."""
    return change(run, api.PolicyPatch(signin_deny=_at_most_100(domains)))


@click.command()
@click.argument("amount", metavar="[USD]", required=False, type=UsdAmount())
@click.option("--domain", metavar="DOMAIN", type=RecordedDomain(), help="Budget of this domain alone.")
@click.option(
    "--caller",
    metavar="CALLER",
    type=RecordedCaller(),
    help="Budget of this caller: `uid:1000` or `proxy:NAME`.",
)
@click.option("--remove", is_flag=True, help="Remove the budget of --domain, --caller or both.")
@invocation
def budget(run: Invocation, amount: str | None, domain: str | None, caller: str | None, remove: bool) -> int:
    """Set what may be spent in a UTC day, in USD: by all, at a domain, by a caller, or by a caller at a domain.

    For example `keyctl x402 budget 5.00`, or `keyctl x402 budget 0.50 --domain api.example.com --caller uid:1000`.

    A budget that keyd.toml sets is replaced while this one exists, and --remove brings it back. Exit code 3:
    filed as a proposal, not in force.
    """
    if remove == (amount is not None):
        raise click.UsageError("give either an amount or --remove")
    if domain is None and caller is None:
        if amount is None:
            raise click.UsageError(
                "--remove needs --domain or --caller: the daily budget of all always exists"
            )
        return change(run, api.PolicyPatch(daily_budget_usd=amount))
    rule = api.BudgetChange(domain=domain, caller=caller, daily_usd=amount)
    return change(run, api.PolicyPatch(budgets=[rule]))


@click.command()
@click.argument("amount", metavar="USD", type=UsdAmount())
@invocation
def cap(run: Invocation, amount: str) -> int:
    """Set what a single payment may cost, in USD: `keyctl x402 cap 0.25`. Exit code 3: filed as a proposal, not in force."""
    return change(run, api.PolicyPatch(max_payment_usd=amount))


@click.command()
@click.argument("domain", required=False, type=RecordedDomain())
@click.option("--yes", is_flag=True, help="Do not ask before all overrides are dropped.")
@invocation
def reset(run: Invocation, domain: str | None, yes: bool) -> None:
    """Go back to keyd.toml: drop all overrides. With DOMAIN: forget its pins and its quarantine instead.

    A domain that was reset is paid as if for the first time, and pinned again.
    """
    if domain is not None:
        run.ask(lambda keyd: keyd.policy_reset(api.PolicyReset(domain=domain)))
        click.echo(f"pins and quarantine of {escaped(domain)} are forgotten")
        return
    before = run.ask(KeydClient.policy)
    if not before.overrides:
        click.echo("there are no overrides: keyd.toml is in force as it is")
        return
    if not yes:
        _confirm_reset(before)
    after = run.ask(_reset_all)
    click.echo("overrides dropped, keyd.toml is in force as it is")
    _echo_changes(before, after)


async def _reset_all(keyd: KeydClient) -> api.PolicyView:
    await keyd.policy_reset(api.PolicyReset())
    return await keyd.policy()


def _confirm_reset(view: api.PolicyView) -> None:
    if not sys.stdin.isatty():
        raise CliError(
            "there is no terminal to ask on before all overrides are dropped", "confirm it with --yes"
        )
    names = ", ".join(escaped(name) for name in view.overrides)
    if not click.confirm(f"Drop all overrides ({names})?", err=True):
        raise CliError("nothing was changed")


@click.command()
@click.argument("reason", nargs=-1, metavar="[REASON]")
@invocation
def freeze(run: Invocation, reason: tuple[str, ...]) -> None:
    """Sign nothing from now on. Administrators and agents may; only administrators can unfreeze.

    REASON is for whoever finds payments frozen. Authorizations that left before can still be settled until they
    expire, at most ten minutes later.
    """
    words = " ".join(reason)
    if len(words) > _MAX_REASON:
        raise click.UsageError(f"the reason has more than {_MAX_REASON} characters")
    frozen = run.ask(lambda keyd: keyd.freeze(api.Freeze(reason=words)))
    click.echo(frozen_line(frozen))
    click.echo(as_called("`keyctl x402 unfreeze` lets an administrator end it."))


@click.command()
@invocation
def unfreeze(run: Invocation) -> None:
    """Let payments go on after `freeze`."""
    run.ask(KeydClient.unfreeze)
    click.echo("payments are not frozen")


def change(run: Invocation, patch: api.PolicyPatch) -> int:
    """Puts a change to keyd and says what became of it. Returns the exit code."""
    before, changed, after = run.ask(lambda keyd: _change(keyd, patch))
    if changed.proposal is not None:
        _echo_proposal(changed.proposal, changed.wider)
        return EXIT_PROPOSED
    _echo_changes(before, after)
    if changed.wider:
        click.echo(f"This permits more than before: {escaped('; '.join(changed.wider))}.")
    if not after.enforce:
        click.echo("Overrides are only tried out (enforce = false): keyd.toml alone decides.")
    return 0


async def _change(
    keyd: KeydClient, patch: api.PolicyPatch
) -> tuple[api.PolicyView, api.PolicyChanged, api.PolicyView]:
    """The policy before and after are views, not part of the change: somebody else may change it meanwhile."""
    before = await keyd.policy()
    changed = await keyd.policy_change(patch)
    return before, changed, await keyd.policy()


def _echo_changes(before: api.PolicyView, after: api.PolicyView) -> None:
    for line in change_lines(before, after) or ["nothing changed: it was like this already"]:
        click.echo(line)


def _echo_proposal(proposal: api.Proposal, wider: list[str]) -> None:
    asks = escaped("; ".join(wider) or proposal.summary)
    click.echo(
        f"{click.style('Not in force', fg='yellow')}: an agent may not permit more than before ({asks}).\n"
        f"It was filed as proposal {escaped(proposal.id)}, until {moment(proposal.expires_at)}.\n"
        + as_called(
            f"An administrator decides with `keyctl x402 approve {escaped(proposal.id)}` or `reject`."
        )
    )


def _at_most_100(domains: Sequence[str | DomainPattern]) -> list[str]:
    if len(domains) > 100:
        raise click.UsageError("at most 100 domains at once")
    return [str(domain) for domain in domains]
