"""`keyctl init`, `keyctl check-config` and `keyctl health`: getting keyd to run, and seeing that it does."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path

import click

from keyd.cli.context import Invocation, invocation, load_settings
from keyd.cli.errors import CliError, report
from keyd.cli.key_sources import new_passphrase
from keyd.cli.render import escaped
from keyd.client import KeydClient
from keyd.setup import SetupError, initialise

EGRESS_KEYS = {"listen", "keyd_socket"}  # top-level keys that only egress.toml has


@click.command()
@click.option(
    "--passphrase", is_flag=True, help="Seal the key in `kek_file` under a passphrase; asks for it."
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The same, with the passphrase from FILE.",
)
@invocation
def init(run: Invocation, passphrase: bool, passphrase_file: Path | None) -> None:
    """Make what keyd needs: key-encryption key (if `kek_file` is set), state folder, ledger.

    Without a passphrase `kek_file` holds the key in the clear, for trying out. With systemd leave `kek_file`
    out and run osmoda-setup, which seals the key to this machine.

    Safe to repeat: what is there already is left as it is. Run it as the user that keyd runs as.
    """
    settings = run.settings()
    wanted = passphrase or passphrase_file is not None
    ask = partial(new_passphrase, "the key-encryption key", passphrase_file) if wanted else None
    try:
        done = initialise(settings, ask)
    except SetupError as error:
        raise CliError(str(error), error.hint) from error
    for line in done:
        click.echo(escaped(line))


@click.command("check-config")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@invocation
def check_config(run: Invocation, file: Path | None) -> None:
    """Check a keyd.toml without starting anything.

    FILE is otherwise that of --config. For egress.toml use `osmoda-egress --check`.
    """
    file = file or run.config_file
    if _is_of_egress(file):
        raise CliError(
            f"{file} is a configuration of egress, not of keyd",
            f"check it with `osmoda-egress --config {file} --check`",
        )
    load_settings(file)
    click.echo(f"{escaped(str(file))}: ok")


def _is_of_egress(file: Path) -> bool:
    try:
        keys = tomllib.loads(file.read_text("utf-8")).keys()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # the loader says what is wrong with it, and where
    return bool(keys & EGRESS_KEYS)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON.")
@invocation
def health(run: Invocation, as_json: bool) -> None:
    """Ask keyd whether it can pay. Exit code 0 only if it can."""
    state = run.ask(KeydClient.health)
    if as_json:
        click.echo(state.model_dump_json())
    else:
        word = click.style(state.status, fg="green" if state.status == "ok" else "red")
        click.echo(f"keyd {escaped(state.version)}: {word}, {state.ledger_entries} ledger entries")
    if state.status != "ok":
        for problem in state.problems:
            report(problem)
        raise CliError(
            "keyd runs but cannot pay", "`keyctl doctor` looks for the cause and says how to mend it"
        )
