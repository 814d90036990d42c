"""`osmoda-egress --config FILE`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from egress import logs
from egress.config import EgressSettings
from egress.listener import listeners, metrics_listener
from egress.loads import Load, Loads, SharedListener
from egress.workers import Workers
from keyd import jsonlog
from keyd.configfile import ConfigError, load
from keyd.service_manager import Notifier


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("/etc/osmoda/egress.toml"),
    show_default=True,
    help="Configuration file; docs/egress.md explains every key.",
)
@click.option("--check", is_flag=True, help="Check the configuration file, then exit.")
@click.option("--worker-of", "parent", type=int, hidden=True)
@click.option("--worker-number", "number", type=int, default=0, hidden=True)
@click.option("--worker-loads", "loads", type=int, default=-1, hidden=True)
@click.option("--worker-metrics", "scraped", type=click.Path(path_type=Path), hidden=True)
@click.option("--worker-socket", "descriptors", type=int, multiple=True, hidden=True)
def main(
    config_file: Path,
    check: bool,
    parent: int | None,
    number: int,
    loads: int,
    scraped: Path | None,
    descriptors: Sequence[int],
) -> None:
    """Proxy that pays 402 answers (x402) with payments that keyd allows."""
    try:
        settings = load(EgressSettings, config_file)
        if check:
            return
        logs.configure()
        if parent is not None:
            code = _be_worker(settings, descriptors, parent, Load(Loads(loads), number), scraped)
        elif settings.workers > 1:
            code = asyncio.run(_supervise(settings, config_file))
        else:
            code = _be_alone(settings)
    except ConfigError as error:
        jsonlog.complain("osmoda-egress", str(error), error.hint)
        raise SystemExit(2) from None
    _end(code)


def _end(code: int) -> NoReturn:
    """Python would wait for every thread, and one that looks up a name waits for the name server, half a minute and more."""
    if threading.active_count() > 1:
        jsonlog.stderr().end()
        os._exit(code)
    raise SystemExit(code)


def _be_alone(settings: EgressSettings) -> int:
    from egress.proxy import serve

    asyncio.run(serve(settings, listeners(settings.listen, os.environ)))
    return 0


def _be_worker(
    settings: EgressSettings, descriptors: Sequence[int], parent: int, load: Load, scraped: Path | None
) -> int:
    from egress.proxy import serve_as_worker

    sockets = [SharedListener(descriptor, load) for descriptor in descriptors]
    asyncio.run(serve_as_worker(settings, sockets, load, parent, scraped))
    return 0


async def _supervise(settings: EgressSettings, config_file: Path) -> int:
    """Without the proxy in its memory, which is why the others import it where they need it."""
    sockets = listeners(settings.listen, os.environ)
    workers = Workers(config_file, settings.workers, sockets, Notifier(os.environ))
    if settings.metrics_listen is None:
        return await workers.run()
    from egress.scrape import answering

    async with answering(metrics_listener(settings.metrics_listen), workers.exposition):
        return await workers.run()


if __name__ == "__main__":
    main()
