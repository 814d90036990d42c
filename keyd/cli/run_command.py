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
from keyd.cli.environment import Proxy, program_environment
from keyd.cli.errors import CliError, report

EXIT_CANNOT_EXECUTE: Final = 126
EXIT_NOT_FOUND: Final = 127
"""As shells report them."""
_CONNECT_TIMEOUT_S: Final = 3.0


def _proxy(_context: click.Context, _parameter: click.Parameter, value: str) -> Proxy:
    try:
        return Proxy.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option(
    "--proxy",
    metavar="URL",
    envvar="OSMODA_PROXY",
    default="http://127.0.0.1:19999",
    show_default=True,
    callback=_proxy,
    help="Where egress listens; http://NAME:TOKEN@HOST:PORT for a caller with a token.",
)
@click.option(
    "--ca",
    metavar="FILE",
    envvar="OSMODA_CA",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/osmoda-egress/ca-cert.pem"),
    show_default=True,
    help="Certificate of egress.",
)
@click.option(
    "--no-proxy",
    metavar="HOSTS",
    help="Hosts to reach directly, with commas between them; '' for none. Otherwise NO_PROXY, or this machine.",
)
@click.option("--print", "only_print", is_flag=True, help="Print `export` lines for a shell; run nothing.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD…")
def run(proxy: Proxy, ca: Path, no_proxy: str | None, only_print: bool, command: tuple[str, ...]) -> None:
    """Run a program with every variable it needs to go through egress and to trust it.

    The program takes keyctl's place: same process, same signals, its own exit code. 127: there is no such program;
    126: it cannot be executed. docs/programs.md says which programs were tried.
    """
    if only_print == bool(command):
        raise click.UsageError("name a program to run, or --print")
    changes = program_environment(
        os.environ,
        proxy,
        trust_files.prepare(ca, os.environ),
        no_proxy,
        own_wgetrc=_has_own_wgetrc(os.environ),
    )
    if only_print:
        for name, value in changes.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        return
    _require_listener(proxy)
    _execute(command, {**os.environ, **changes})


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
    name = command[0]
    try:
        os.execvpe(name, command, environment)  # noqa: S606 - starting what the person typed is the purpose
    except FileNotFoundError:
        report(f"there is no program {name!r}", "check its spelling and PATH")
        raise click.exceptions.Exit(EXIT_NOT_FOUND) from None
    except OSError as error:
        report(f"cannot run {name}: {(error.strerror or '').lower()}", "is it a program, and executable?")
        raise click.exceptions.Exit(EXIT_CANNOT_EXECUTE) from None
