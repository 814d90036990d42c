"""`osmoda-fence up|down|show`: loads the rules of `egress.reach.fence` into the kernel. Needs CAP_NET_ADMIN, and nft."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NoReturn

import click

from egress.config import EgressSettings
from egress.reach.fence import REMOVE, Fenced, resolve, ruleset
from keyd import jsonlog
from keyd.configfile import ConfigError, load


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("/etc/osmoda/egress.toml"),
    show_default=True,
    help="Configuration of egress: its `fence` and `listen`.",
)
@click.pass_context
def main(context: click.Context, config_file: Path) -> None:
    """Let the users of `fence` in egress.toml reach the network through egress alone."""
    context.obj = config_file


@main.command()
@click.pass_obj
def up(config_file: Path) -> None:
    """Load the rules, in place of those that were loaded before."""
    rules, fenced = _rules(config_file)
    _nft(rules)
    click.echo(f"fenced in: {', '.join(f'uid {uid}' for uid in sorted(fenced.uids)) or 'nobody'}")
    if fenced.unknown:  # after loading: the others have to be fenced in all the same
        _fail(1, f"there is no user {', '.join(fenced.unknown)}", "create the user, or correct `fence`")


@main.command()
def down() -> None:
    """Take the rules away."""
    _nft(REMOVE)


@main.command()
@click.pass_obj
def show(config_file: Path) -> None:
    """Print the rules that `up` would load."""
    click.echo(_rules(config_file)[0], nl=False)


def _rules(config_file: Path) -> tuple[str, Fenced]:
    try:
        settings = load(EgressSettings, config_file)
        fenced = resolve(settings.fence)
        return ruleset(fenced.uids, settings.listen), fenced
    except ConfigError as error:
        _fail(2, str(error), error.hint)
    except ValueError as error:
        _fail(2, f"{config_file}: {error}", "correct egress.toml, then systemctl restart osmoda-fence")


def _nft(rules: str) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=rules, capture_output=True, text=True, timeout=30, check=False
        )
    except FileNotFoundError:
        _fail(1, "nft is missing", "apt-get install nftables")
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        _fail(1, f"nft refused the rules: {words[0]}", "run it as root, on a kernel with nf_tables")


def _fail(code: int, error: str, hint: str) -> NoReturn:
    jsonlog.complain("osmoda-fence", error, hint)
    raise SystemExit(code)
