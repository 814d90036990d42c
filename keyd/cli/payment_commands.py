"""`keyctl x402 spend`, `payments` and `show`: where the money went."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Final, get_args

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError
from keyd.cli.policy_commands import RecordedDomain
from keyd.cli.render import escaped, moment, table, usd
from keyd.cli.story import story_text
from keyd.client import KeydClient

ID_SHOWN: Final = 12
"""Characters of a payment's id in a table: 48 random bits tell the payments of one ledger apart."""
SEARCHED: Final = 1000
"""Newest payments among which the beginning of an id is looked up; keyd answers with no more at once."""

_FULL_ID: Final = 32
_STATES: Final = get_args(api.PaymentView.model_fields["state"].annotation)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_DAYS_AGO: Final = re.compile(r"([0-9]{1,5})d", re.ASCII)


class Since(click.ParamType[str]):
    """`2026-11-21`, or `7d` for seven days before keyd's today."""

    name = "day"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if _DAYS_AGO.fullmatch(value) is None and not _is_day(value):
            self.fail(f"{value!r} is neither a day like 2026-11-21 nor a number of days like 7d", param, ctx)
        return value


since_option = click.option(
    "--since", metavar="DAY", type=Since(), help="First UTC day, `2026-11-21`, or `7d` for seven days ago."
)


async def first_day(keyd: KeydClient, since: str | None) -> str | None:
    """The day that --since names, YYYY-MM-DD. "Ago" counts from the day keyd's budget is on, not this clock's."""
    ago = None if since is None else _DAYS_AGO.fullmatch(since)
    if ago is None:
        return since
    try:
        return str(date.fromisoformat((await keyd.policy()).day) - timedelta(days=int(ago[1])))
    except (OverflowError, ValueError):
        return "0001-01-01"


@click.command()
@click.option(
    "--by",
    metavar="WHAT",
    type=click.Choice([by.value for by in api.SpendBy]),
    default=api.SpendBy.DOMAIN.value,
    show_default=True,
    help=f"Add up by {', '.join(list(api.SpendBy)[:-1])} or {list(api.SpendBy)[-1]}.",
)
@since_option
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON; USD amounts are strings.")
@invocation
def spend(run: Invocation, by: str, since: str | None, as_json: bool) -> None:
    """Show what was spent, today or since a day. Payments that were proven to be void are not in the sums."""

    async def question(keyd: KeydClient) -> api.Spend:
        return await keyd.spend(by=api.SpendBy(by), since=await first_day(keyd, since))

    answer = run.ask(question)
    click.echo(answer.model_dump_json(indent=2) if as_json else _spend_text(answer))


def _spend_text(answer: api.Spend) -> str:
    total = f"Spent since {escaped(answer.since)} (UTC): {click.style(usd(answer.total), bold=True)}."
    rows = [(row.key, usd(row.usd), str(row.calls)) for row in answer.rows]
    if not rows:
        return total
    return f"{total}\n\n{table((answer.by.upper(), 'SPENT', 'CALLS'), rows, right=(1, 2))}"


@click.command()
@click.option("--state", metavar="STATE", type=click.Choice(_STATES), help=f"One of {', '.join(_STATES)}.")
@click.option("--domain", metavar="DOMAIN", type=RecordedDomain(), help="Payments to this domain.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, SEARCHED), default=50, show_default=True, help="How many."
)
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON.")
@invocation
def payments(run: Invocation, state: str | None, domain: str | None, limit: int, as_json: bool) -> None:
    """List payments, the newest first."""
    answer = run.ask(lambda keyd: keyd.payments(state=state, domain=domain, limit=limit))
    if as_json:
        click.echo(answer.model_dump_json(indent=2))
    elif answer.payments:
        header = ("WHEN", "ID", "STATE", "DELIVERED", "AMOUNT", "USD", "DOMAIN")
        click.echo(table(header, [_row(payment) for payment in answer.payments], right=(4, 5)))
        if len(answer.payments) == limit:
            click.echo(f"These are the newest {limit}; --limit shows more.")
    else:
        click.echo("no such payments")


def _row(payment: api.PaymentView) -> tuple[str, ...]:
    return (
        moment(payment.signed_at),
        payment.payment_id[:ID_SHOWN],
        f"{payment.state}, proven" if payment.proven else payment.state,
        "yes" if payment.delivered else "no",
        f"{payment.amount} {payment.asset}",
        usd(payment.amount_usd),
        payment.domain,
    )


@click.command()
@click.argument("payment_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON.")
@invocation
def show(run: Invocation, payment_id: str, as_json: bool) -> None:
    """Tell the story of one payment, from the offer to the proof. The beginning of an id will do."""
    story = run.ask(lambda keyd: find_story(keyd, payment_id))
    click.echo(story.model_dump_json(indent=2) if as_json else story_text(story))


async def find_story(keyd: KeydClient, wanted: str) -> api.PaymentStory:
    """The payment whose id begins with `wanted`. Raises CliError if none does, or more than one."""
    if len(wanted) >= _FULL_ID:
        return await keyd.payment(wanted)
    newest = (await keyd.payments(limit=SEARCHED)).payments
    found = [payment.payment_id for payment in newest if payment.payment_id.startswith(wanted.lower())]
    if len(found) > 1:
        raise CliError(f"{len(found)} payments begin with {wanted!r}", f"{found[0]} is the newest of them")
    if not found:
        hint = "`keyctl x402 payments` lists them; a payment older than that needs its whole id"
        raise CliError(f"none of the newest {len(newest)} payments begins with {wanted!r}", hint)
    return await keyd.payment(found[0])


def _is_day(text: str) -> bool:
    try:
        return _DAY.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False
