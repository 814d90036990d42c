"""`osmoda-egress --config FILE`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from egress import logs
from egress.config import EgressSettings
from egress.proxy import serve
from keyd.configfile import ConfigError, load


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=Path("/etc/osmoda/egress.toml"),
    show_default=True,
    help="Configuration file; docs/egress.md explains every key.",
)
@click.option("--check", is_flag=True, help="Check the configuration file, then exit.")
def main(config_file: Path, check: bool) -> None:
    """Proxy that pays 402 answers (x402) with payments that keyd allows."""
    try:
        settings = load(EgressSettings, config_file)
        if check:
            return
        logs.configure()
        asyncio.run(serve(settings))
    except ConfigError as error:
        click.echo(f"osmoda-egress: error: {error}", err=True)
        click.echo(f"osmoda-egress: hint: {error.hint}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
