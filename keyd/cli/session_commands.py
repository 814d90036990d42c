"""`keyctl x402 sessions`, and what `keyctl x402 run --label` does: a budget of its own for one command."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Final

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, report
from keyd.cli.render import escaped, moment, table, usd
from keyd.client import KeydClient

_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Sent to keyctl alone, and meant for the command."""
_FROM_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""The terminal sends them to the command as well; it decides whether they end it."""
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `8h`, `2d`, in seconds: from a minute to a week."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(value)
        seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
        if not 60 <= seconds <= api.MAX_SESSION_S:
            self.fail(f"{value!r} is no time from a minute to a week: write 90s, 30m, 8h or 2d", param, ctx)
        return seconds


class TaskLabel(click.ParamType[str]):
    """What keyd takes for a label; refused here, before anybody is asked."""

    name = "label"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,31}", value, re.ASCII) is None:
            self.fail(f"{value!r}: up to 32 of a-z, 0-9, dot, dash and underscore", param, ctx)
        return value


@click.command()
@click.option(
    "--close", metavar="ID", help="End this session; its command is not stopped, and pays nothing more."
)
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON.")
@invocation
def sessions(run: Invocation, close: str | None, as_json: bool) -> None:
    """List the sessions that are open: your own, or everybody's for an administrator."""
    if close is not None:
        ended = run.ask(lambda keyd: keyd.session_close(close))
        click.echo(ended.model_dump_json(indent=2) if as_json else f"ended: {_spent(ended)}")
        return
    found = run.ask(KeydClient.sessions)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    elif found.sessions:
        header = ("ID", "LABEL", "CALLER", "SPENT", "BUDGET", "UNTIL")
        click.echo(table(header, [_row(session) for session in found.sessions], right=(3, 4)))
    else:
        click.echo("no session is open")


def _row(session: api.Session) -> tuple[str, ...]:
    until = moment(session.expires_at)
    return session.id, session.label, session.caller, usd(session.spent), usd(session.budget), until


def _spent(session: api.Session) -> str:
    return escaped(
        f"session {session.label}/{session.id}: {usd(session.spent)} of {usd(session.budget)} spent"
    )


@dataclass(frozen=True, slots=True)
class Task:
    """What a command is given to spend."""

    label: str
    budget: str
    expires_in: int


def run_in_session(
    run: Invocation, task: Task, command: tuple[str, ...], environment: Callable[[str], Mapping[str, str]]
) -> int:
    """Opens a session, runs `command` in `environment(token)`, and closes it. The command's exit code. Raises CliError."""
    request = api.SessionOpen(label=task.label, budget_usd=task.budget, expires_in=task.expires_in)
    opened = run.ask(lambda keyd: keyd.session_open(request))
    try:
        return _supervise(command, environment(opened.token))
    finally:
        _close(run, opened.session)


def _close(run: Invocation, session: api.Session) -> None:
    """Only ever says what it could not do: the command's exit code is what counts."""
    try:
        ended = run.ask(lambda keyd: keyd.session_close(session.id))
        click.echo(f"keyctl: {_spent(ended)}", err=True)
    except CliError as error:
        until = moment(session.expires_at)
        report(f"session {session.label}/{session.id} stays open until {until}: {error}", kind="warning")


def _supervise(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """The exit code of `command` as shells report it. Raises OSError if it cannot be started."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    for forwarded in _FORWARDED:
        signal.signal(forwarded, forward)
    for typed in _FROM_TERMINAL:  # a handler, not SIG_IGN, which the command would inherit
        signal.signal(typed, lambda _number, _frame: None)
    child = subprocess.Popen(command, env=dict(environment))
    for number in early:
        child.send_signal(number)
    code = child.wait()
    return 128 - code if code < 0 else code
