"""`osmoda-reconcile --config FILE`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import click

from keyd import jsonlog
from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable
from keyd.configfile import ConfigError, load
from reconcile import logs
from reconcile.config import ReconcileSettings
from reconcile.heads import hand_on_head
from reconcile.reconciler import Summary, reconcile
from reconcile.rpc import open_session
from reconcile.watch import watch


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("/etc/osmoda/reconcile.toml"),
    show_default=True,
    help="Configuration file; docs/reconcile.md explains every key.",
)
@click.option("--check", is_flag=True, help="Check the configuration file, then exit.")
def main(config_file: Path, check: bool) -> None:
    """Ask the chain what became of open payments, tell keyd, and exit."""
    try:
        settings = load(ReconcileSettings, config_file)
    except ConfigError as error:
        _fail(2, str(error), error.hint)
    if check:
        return
    logs.configure()
    try:
        summary, told = asyncio.run(run(settings))
    except KeydUnreachable as error:
        hint = "start osmoda-keyd, and compare `keyd_socket` in reconcile.toml with `socket` in keyd.toml"
        _fail(1, f"cannot reach keyd at {error}", hint)
    except KeydRefused as error:
        _fail(1, f"keyd refused: {error}", error.refusal.hint)
    except KeydProtocolError as error:
        _fail(1, str(error), "check that osmoda-keyd and osmoda-reconcile have the same version")
    click.echo(summary)
    if not told:
        hint = "the lines above say why; it is told again in the next pass"
        jsonlog.complain("osmoda-reconcile", "a hook failed", hint)
    if summary.failed:
        hint = (
            "the lines above name the servers; the money stays counted as spent until a later pass succeeds"
        )
        _fail(1, f"nothing could be concluded about {summary.failed} of the payments", hint)
    if not told:
        raise SystemExit(1)


async def run(settings: ReconcileSettings) -> tuple[Summary, bool]:
    """One pass, and whether administrators were told what they have to hear. Raises what `reconcile` raises."""
    async with KeydClient(settings.keyd_socket) as keyd, open_session() as session:
        # First: they are bounded, and slow RPC servers must not delay them.
        told = await watch(settings, keyd, session)
        told &= await hand_on_head(settings, keyd, session)
        return await reconcile(settings, keyd, session), told


def _fail(code: int, error: str, hint: str) -> NoReturn:
    jsonlog.complain("osmoda-reconcile", error, hint)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
