"""`keyctl x402`: what may be paid, what was spent, and what a reason code means."""

from __future__ import annotations

import difflib

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError
from keyd.cli.render import escaped, table, usd
from keyd.client import KeydClient
from keyd.reasons import Reason, explain


@click.group()
def x402() -> None:
    """Policy, spending and reason codes of x402 payments."""


@x402.command()
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON; USD amounts are strings.")
@invocation
def policy(run: Invocation, as_json: bool) -> None:
    """Show what is allowed, what was spent today, and what is left."""
    view = run.ask(KeydClient.policy)
    click.echo(view.model_dump_json(indent=2) if as_json else policy_text(view))


def policy_text(view: api.PolicyView) -> str:
    """The policy for people: the money first, then where it went, then the limits."""
    spent = (
        f"You have spent {click.style(usd(view.spent_today), bold=True)} of {usd(view.daily_budget)} today "
        f"({escaped(view.day)} UTC), {usd(view.left_today)} left."
    )
    state = [] if view.enabled else [click.style("Payments are switched off.", fg="yellow")]
    domains = [[spend.domain, usd(spend.usd), str(spend.calls)] for spend in view.by_domain]
    wallet = f"{view.default_wallet_label}  {view.wallet or '(does not exist yet)'}"
    limits = [
        ("per payment", f"at most {usd(view.max_payment)}"),
        ("allowed domains", _listed(view.allowed_domains)),
        ("networks", _listed(view.networks)),
        ("assets", _listed(view.assets)),
        ("wallet", escaped(wallet)),
    ]
    width = max(len(name) for name, _ in limits)
    return "\n".join(
        [
            *state,
            spent,
            *(["", table(("DOMAIN", "SPENT", "CALLS"), domains, right=(1, 2))] if domains else []),
            "",
            *(f"{name.ljust(width)}  {value}" for name, value in limits),
        ]
    )


def _listed(items: list[str]) -> str:
    return ", ".join(escaped(item) for item in items) or "none"


@x402.command("explain")
@click.argument("code", required=False)
def explain_code(code: str | None) -> None:
    """Say what a reason code means and what to do about it. Without CODE: list all. Needs no keyd."""
    if code is None:
        click.echo(table(("CODE", "MEANING"), [(reason, reason.explanation.summary) for reason in Reason]))
        return
    explanation = explain(code)
    if explanation is None:
        raise CliError(f"there is no reason code {code!r}", _did_you_mean(code))
    click.echo(f"{click.style(code, bold=True)}: {explanation.summary}")
    click.echo(f"What to do: {explanation.remedy}")


def _did_you_mean(code: str) -> str:
    near = difflib.get_close_matches(code.lower().replace("-", "_"), list(Reason), n=3)
    return f"did you mean {' or '.join(near)}?" if near else "`keyctl x402 explain` lists all codes"
