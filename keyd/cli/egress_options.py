"""`--proxy` and `--ca`: which egress a command's requests go through, and the certificate that it shows."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli.environment import Proxy


def _proxy(_context: click.Context, _parameter: click.Parameter, value: str) -> Proxy:
    try:
        return Proxy.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


proxy_option = click.option(
    "--proxy",
    metavar="URL",
    envvar="OSMODA_PROXY",
    show_envvar=True,
    default="http://127.0.0.1:19999",
    show_default=True,
    callback=_proxy,
    help="Where egress listens; http://NAME:TOKEN@HOST:PORT for a caller with a token.",
)
ca_option = click.option(
    "--ca",
    metavar="FILE",
    envvar="OSMODA_CA",
    show_envvar=True,
    type=click.Path(path_type=Path),
    default=Path("/var/lib/osmoda-egress/ca-cert.pem"),
    show_default=True,
    help="Certificate of egress.",
)
