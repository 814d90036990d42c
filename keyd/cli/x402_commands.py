"""`keyctl x402`: what may be paid, what was paid, what waits for a person, and what a code or an id means."""

from __future__ import annotations

import difflib
import re
from typing import Final

import click

from keyd import api
from keyd.cli import (
    approval_commands,
    discover_command,
    payment_commands,
    policy_commands,
    replay_command,
    run_command,
    session_commands,
)
from keyd.cli.approval_commands import find_proposals, proposal_text
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError
from keyd.cli.payment_commands import find_story
from keyd.cli.program import as_called
from keyd.cli.render import table
from keyd.cli.story import state_text
from keyd.client import KeydClient
from keyd.reasons import Reason, explain

_ID: Final = re.compile(r"[0-9a-fA-F]{6,40}")
"""Ids and their beginnings are hex. No reason code is, and six digits are no typing error of one."""


@click.group()
def x402() -> None:
    """Policy, approvals, spending and reason codes of x402 payments."""


for _command in (
    policy_commands.policy,
    policy_commands.allow,
    policy_commands.deny,
    policy_commands.signin,
    policy_commands.budget,
    policy_commands.cap,
    policy_commands.reset,
    policy_commands.freeze,
    policy_commands.unfreeze,
    approval_commands.pending,
    approval_commands.approve,
    approval_commands.reject,
    payment_commands.spend,
    payment_commands.payments,
    payment_commands.show,
    discover_command.discover,
    session_commands.sessions,
    run_command.run,
):
    x402.add_command(_command)
policy_commands.policy.add_command(replay_command.test)


@x402.command("explain")
@click.argument("what", required=False, metavar="[CODE|ID]")
@invocation
def explain_command(run: Invocation, what: str | None) -> None:
    """Say what a reason code, a payment or a proposal means, and what to do. Without an argument: list all codes.

    Codes need no keyd.
    """
    if what is None:
        click.echo(table(("CODE", "MEANING"), [(reason, reason.explanation.summary) for reason in Reason]))
        return
    explanation = explain(what)
    if explanation is not None:
        click.echo(f"{click.style(what, bold=True)}: {explanation.summary}")
        click.echo(f"What to do: {as_called(explanation.remedy)}")
    elif _ID.fullmatch(what):
        click.echo(run.ask(lambda keyd: _explain_id(keyd, what)))
    else:
        raise CliError(f"there is no reason code {what!r}", _did_you_mean(what))


async def _explain_id(keyd: KeydClient, wanted: str) -> str:
    proposal = _proposal(await keyd.policy(), wanted)
    return (
        state_text((await find_story(keyd, wanted)).payment) if proposal is None else proposal_text(proposal)
    )


def _proposal(view: api.PolicyView, wanted: str) -> api.Proposal | None:
    found = find_proposals(view, wanted)
    return found[0] if len(found) == 1 else None


def _did_you_mean(code: str) -> str:
    near = difflib.get_close_matches(code.lower().replace("-", "_"), list(Reason), n=3)
    return f"did you mean {' or '.join(near)}?" if near else "`keyctl x402 explain` lists all codes"
