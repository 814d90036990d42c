"""`keyctl x402 run`: start any program so that its requests go through egress and are paid for."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

import click

from keyd.cli import trust_files
from keyd.cli.context import Invocation, invocation
from keyd.cli.egress_options import ca_option, proxy_option
from keyd.cli.environment import Proxy, program_environment
from keyd.cli.errors import CliError, report
from keyd.cli.policy_commands import UsdAmount
from keyd.cli.session_commands import Duration, Task, TaskLabel, run_in_session

EXIT_CANNOT_EXECUTE: Final = 126
EXIT_NOT_FOUND: Final = 127
"""As shells report them."""
_CONNECT_TIMEOUT_S: Final = 3.0


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@proxy_option
@ca_option
@click.option(
    "--no-proxy",
    metavar="HOSTS",
    help="Hosts to reach directly, with commas between them; '' for none. Otherwise NO_PROXY, or this machine.",
)
@click.option("--print", "only_print", is_flag=True, help="Print `export` lines for a shell; run nothing.")
@click.option(
    "--label", metavar="NAME", type=TaskLabel(), help="Run it in a session of this name, with --budget."
)
@click.option(
    "--budget", metavar="USD", type=UsdAmount(), help="What the session may spend, within all other budgets."
)
@click.option(
    "--expires",
    metavar="TIME",
    type=Duration(),
    default="24h",
    show_default=True,
    help="When the session ends at the latest: 90s, 30m, 8h, 2d.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD…")
@invocation
def run(
    keyd: Invocation,
    proxy: Proxy,
    ca: Path,
    no_proxy: str | None,
    only_print: bool,
    label: str | None,
    budget: str | None,
    expires: int,
    command: tuple[str, ...],
) -> int:
    """Run a program with every variable it needs to go through egress and to trust it.

    For example `keyctl x402 run -- curl https://api.example.com/weather`, or with 0.50 USD for all that an agent does:
    `keyctl x402 run --label research --budget 0.50 -- python agent.py`.

    The program takes keyctl's place: same process, same signals, its own exit code. 127: there is no such program;
    126: it cannot be executed. docs/programs.md says which programs were tried.

    With --label and --budget it runs in a session, which is closed when it ends; keyctl then waits for it and passes
    signals on. docs/policy.md says what a session is.
    """
    if only_print == bool(command):
        raise click.UsageError("name a program to run, or --print")
    if (label is None) != (budget is None):
        raise click.UsageError("--label and --budget go together")
    trust = trust_files.prepare(ca, os.environ)

    def changes(through: Proxy) -> dict[str, str]:
        own = _has_own_wgetrc(os.environ)
        return program_environment(os.environ, through, trust, no_proxy, own_wgetrc=own)

    if only_print:
        if label is not None:
            raise click.UsageError("a session ends with its command: --label needs one, not --print")
        for name, value in changes(proxy).items():
            click.echo(f"export {name}={shlex.quote(value)}")
        return 0
    _require_listener(proxy)
    if label is None or budget is None:
        _execute(command, {**os.environ, **changes(proxy)})
    _require_no_user(proxy)
    try:
        return run_in_session(
            keyd,
            Task(label, budget, expires),
            command,
            lambda token: {**os.environ, **changes(proxy.in_session(token))},
        )
    except OSError as error:
        return _cannot_execute(command[0], error)


def _require_no_user(proxy: Proxy) -> None:
    try:
        proxy.in_session("")
    except ValueError as error:
        raise CliError(
            str(error), "give --proxy http://HOST:PORT; inside a session there is no other"
        ) from None


def _has_own_wgetrc(environment: Mapping[str, str]) -> bool:
    named, home = environment.get("WGETRC"), environment.get("HOME")
    return bool(named) or (bool(home) and Path(home or "", ".wgetrc").exists())


def _require_listener(proxy: Proxy) -> None:
    """Better one clear sentence than whatever the program would say."""
    try:
        socket.create_connection((proxy.host, proxy.port), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        raise CliError(
            f"no proxy listens on {proxy}: {reason}",
            "start it (`systemctl start osmoda-egress`), or name the right one with --proxy",
        ) from error


def _execute(command: tuple[str, ...], environment: Mapping[str, str]) -> NoReturn:
    # Python ignores it, and an ignored signal stays ignored across exec: `CMD | head` would never end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - starting what the person typed is the purpose
    except OSError as error:
        raise click.exceptions.Exit(_cannot_execute(command[0], error)) from None


def _cannot_execute(name: str, error: OSError) -> int:
    """Says why; the exit code."""
    if isinstance(error, FileNotFoundError):
        report(f"there is no program {name!r}", "check its spelling and PATH")
        return EXIT_NOT_FOUND
    report(f"cannot run {name}: {(error.strerror or '').lower()}", "is it a program, and executable?")
    return EXIT_CANNOT_EXECUTE
