"""`osmoda-bridge`: tools for AI agents (MCP), over stdin and stdout, or HTTP on loopback with --http."""

from __future__ import annotations

import asyncio
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click
from yarl import URL

from bridge.market import Market, session_of
from bridge.web import DEFAULT_CA, DEFAULT_PROXY, Web, parse_url
from keyd.api import DEFAULT_SOCKET
from keyd.client import KeydClient

EXIT_CONFIG = 2
_HTTP = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", re.ASCII)


def _listen(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    if value is None:
        return None
    match = _HTTP.fullmatch(value)
    if match is None or int(match[3]) > 65535:
        raise click.BadParameter("write it as 127.0.0.1:PORT or [::1]:PORT")
    return match[1] or match[2], int(match[3])


def _proxy(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        parts = URL(value)
        good = parts.scheme == "http" and bool(parts.host) and parts.explicit_port is not None
    except ValueError:
        good = False
    if not good:  # its token, if there is one, is not repeated
        raise click.BadParameter("write it as http://HOST:PORT")
    return value


def _marketplace(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if not value else str(parse_url(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    metavar="PATH",
    envvar="OSMODA_KEYD_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    help="Socket of keyd.",
)
@click.option(
    "--proxy",
    metavar="URL",
    envvar="OSMODA_PROXY",
    default=DEFAULT_PROXY,
    show_default=True,
    callback=_proxy,
    help="Where egress listens; `osmoda-keyctl x402 run` sets it for what runs in a session.",
)
@click.option(
    "--ca",
    metavar="FILE",
    envvar="OSMODA_CA",
    type=click.Path(path_type=Path),
    default=DEFAULT_CA,
    show_default=True,
    help="Certificate of egress.",
)
@click.option(
    "--facilitator",
    metavar="URL",
    envvar="OSMODA_FACILITATOR",
    callback=_marketplace,
    help="Marketplace that x402_discover asks: a facilitator with /discovery.",
)
@click.option(
    "--flat-dialect",
    is_flag=True,
    envvar="OSMODA_FLAT_DIALECT",
    help="Read osModa's flat form of terms too, if egress does (`x402.flat_dialect` of egress.toml).",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    callback=_listen,
    help="Serve streamable HTTP on this loopback address, to this user alone, instead of stdin and stdout.",
)
@click.version_option(package_name="osmoda-x402", prog_name="osmoda-bridge")
def main(
    socket: str,
    proxy: str,
    ca: Path,
    facilitator: str | None,
    flat_dialect: bool,
    http: tuple[str, int] | None,
) -> None:
    """Tools with which AI agents see and narrow what may be paid. No tool pays; docs/TOOLS.md describes them."""
    if find_spec("mcp") is None:
        fail("the MCP SDK is not installed", "pip install 'osmoda-x402[bridge]'")
    try:
        asyncio.run(serve(socket, proxy, ca, facilitator, flat_dialect, http))
    except (OSError, ValueError) as error:
        fail(f"cannot serve: {error}", "--http takes a free port of 127.0.0.1 or [::1]")
    except KeyboardInterrupt:
        sys.exit(130)


async def serve(
    keyd_socket: str,
    proxy: str,
    ca: Path,
    facilitator: str | None,
    flat_dialect: bool,
    http: tuple[str, int] | None,
) -> None:
    """Until the client closes stdin, or a signal with HTTP."""
    from bridge import local_http  # here, so that --help and the error above need no SDK
    from bridge.server import make_server
    from bridge.tools import Tools

    async with KeydClient(keyd_socket) as keyd, Web(proxy, ca) as web:
        market = Market(web, keyd, session_of(proxy), flat_dialect=flat_dialect)
        server = make_server(Tools(keyd, market, facilitator))
        if http is None:
            await server.run_stdio_async()
        else:
            await local_http.serve(server, *http)


def fail(message: str, hint: str) -> NoReturn:
    click.echo(f"osmoda-bridge: error: {message}\nosmoda-bridge: hint: {hint}", err=True)
    sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
