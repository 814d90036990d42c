"""`keyctl x402 pending`, `approve` and `reject`: what waits for a person."""

from __future__ import annotations

import json

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError
from keyd.cli.policy_text import change_lines
from keyd.cli.program import as_called
from keyd.cli.render import escaped, moment, table
from keyd.client import KeydClient


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list in JSON.")
@invocation
def pending(run: Invocation, as_json: bool) -> None:
    """List payments that policy holds, and changes that an agent may only propose."""
    waiting = run.ask(KeydClient.policy).pending
    if as_json:
        click.echo(json.dumps([proposal.model_dump(mode="json") for proposal in waiting], indent=2))
    elif waiting:
        rows = [_row(proposal) for proposal in waiting]
        click.echo(table(("ID", "KIND", "CODE", "BY", "UNTIL", "WHAT"), rows))
        click.echo(as_called("`keyctl x402 approve ID` or `keyctl x402 reject ID` decides."))
    else:
        click.echo("nothing waits for approval")


@click.command()
@click.argument("proposal_id", metavar="ID")
@invocation
def approve(run: Invocation, proposal_id: str) -> None:
    """Say yes to a held payment or a proposed change. The beginning of an id will do, where it fits one only.

    A held payment is not made now: the program's next try within an hour goes through, once, and what it pays is
    pinned. A change is in force at once.
    """
    before, decided, after = run.ask(lambda keyd: _approve(keyd, proposal_id))
    click.echo(f"approved: {escaped(decided.proposal.summary)}")
    if decided.proposal.kind == "payment":
        click.echo("The program's next try within an hour is paid, once.")
    for line in change_lines(before, after):
        click.echo(line)


async def _approve(keyd: KeydClient, proposal_id: str) -> tuple[api.PolicyView, api.Decided, api.PolicyView]:
    before = await keyd.policy()
    decided = await keyd.approve(_full_id(before, proposal_id))
    return before, decided, await keyd.policy()


@click.command()
@click.argument("proposal_id", metavar="ID")
@invocation
def reject(run: Invocation, proposal_id: str) -> None:
    """Say no; the beginning of an id will do. A program that tries again asks again."""
    decided = run.ask(lambda keyd: _reject(keyd, proposal_id))
    click.echo(f"rejected: {escaped(decided.proposal.summary)}")


async def _reject(keyd: KeydClient, proposal_id: str) -> api.Decided:
    return await keyd.reject(_full_id(await keyd.policy(), proposal_id))


def find_proposals(view: api.PolicyView, wanted: str) -> list[api.Proposal]:
    """What waits under an id, or under ids that begin so."""
    return [proposal for proposal in view.pending if proposal.id.startswith(wanted.lower())]


def _full_id(view: api.PolicyView, wanted: str) -> str:
    """The id that begins so; keyd says what it makes of one that nothing waits under. Raises CliError.

    A beginning that fits two is never guessed at: a seller can choose terms until their ids begin alike.
    """
    found = find_proposals(view, wanted)
    if len(found) > 1:
        raise CliError(
            f"{wanted!r} fits {len(found)} ids", "give more of the id; `keyctl x402 pending` shows it"
        )
    return found[0].id if found else wanted


def proposal_text(proposal: api.Proposal) -> str:
    """What one proposal asks for, and how to answer it."""
    asks = {
        "payment": f"A payment is held{'' if proposal.code is None else f' ({escaped(proposal.code)})'}",
        "policy": "A change of policy was proposed",
    }[proposal.kind]
    return (
        f"{asks}: {escaped(proposal.summary)}\n"
        f"Asked by {escaped(proposal.by)} at {moment(proposal.created_at)}; "
        f"without an answer it is dropped at {moment(proposal.expires_at)}.\n"
        + as_called(f"What to do: `keyctl x402 approve {proposal.id}` or `keyctl x402 reject {proposal.id}`.")
    )


def _row(proposal: api.Proposal) -> tuple[str, ...]:
    until = moment(proposal.expires_at)
    return proposal.id, proposal.kind, proposal.code or "", proposal.by, until, proposal.summary
