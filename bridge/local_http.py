"""Streamable HTTP on loopback, for clients that cannot start a program.

Who connects acts at keyd with the bridge's own user: so the kernel must name that user as the owner of the connection,
and nobody else gets in. No token is needed, none can leak. A browser of the same user is kept out by the Host and
Origin headers, which the SDK compares (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn
from mcp.server.fastmcp import FastMCP
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_SESSIONS: Final = 32
"""Clients of one user at once."""
IDLE_S: Final = 3600
"""A client that said nothing for an hour starts a new session when it comes back."""
MAX_BODY: Final = 256 * 1024
"""Bytes of a request. The longest call of a tool names a hundred domains."""

type Address = tuple[str, int]


async def serve(server: FastMCP[Any], host: str, port: int) -> None:
    """Until SIGTERM or SIGINT. Raises OSError if the address cannot be listened on, ValueError if it is not loopback."""
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is not a loopback address")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        bound = listener.getsockname()[1]
        shown = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        app = OwnUserOnly(make_app(server, bound), os.geteuid())
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # X-Forwarded-For would let a stranger name the connection that the kernel is asked about
        )
        print(f"osmoda-bridge: http://{shown}/mcp", file=sys.stderr, flush=True)
        await uvicorn.Server(config).serve(sockets=[listener])


def make_app(server: FastMCP[Any], port: int) -> ASGIApp:
    """The SDK's application, which takes requests to this port of this machine and from no page of a browser."""
    names = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
    server.settings.transport_security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=names, allowed_origins=[]
    )
    server.settings.max_sessions = MAX_SESSIONS
    server.settings.session_idle_timeout = IDLE_S
    server.settings.max_request_body_size = MAX_BODY
    return server.streamable_http_app()


class OwnUserOnly:
    """ASGI middleware: refuses every connection that the kernel does not say is `uid`'s."""

    def __init__(
        self, app: ASGIApp, uid: int, owner: Callable[[Address, Address], int | None] | None = None
    ) -> None:
        self._app = app
        self._uid = uid
        self._owner = owner or owner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        client, server = scope.get("client"), scope.get("server")
        owner = self._owner(tuple(client), tuple(server)) if client and server else None
        if scope["type"] != "http" or owner != self._uid:
            refusal = PlainTextResponse("this bridge is another user's\n", status_code=403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def owner_of(client: Address, server: Address, proc: Path = Path("/proc")) -> int | None:
    """The uid that owns the client's end of a connection within this machine (proc_pid_net(5)); None if there is none.

    Asked for each request, of the table of this network namespace: milliseconds, at a person's pace.
    """
    wanted = (_in_table(client), _in_table(server))
    for file in ("tcp6", "tcp"):
        for local, remote, uid in _rows(proc / "net" / file):
            if (local, remote) == wanted:
                return uid
    return None


def _rows(table: Path) -> Iterator[tuple[Address, Address, int]]:
    """(local, remote, uid) of the connections that have an owner."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        columns = line.split()
        if columns[9] != "0":  # inode 0: closed by its owner, and listed as root's
            yield _address(columns[1]), _address(columns[2]), int(columns[7])


def _address(text: str) -> Address:
    """ "0100007F:1F90": words of the address in the machine's byte order, and the port."""
    host, port = text.split(":")
    words = [int(host[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(host), 8)]
    return _plain(ipaddress.ip_address(b"".join(words))), int(port, 16)


def _in_table(address: Address) -> Address:
    return _plain(ipaddress.ip_address(address[0])), address[1]


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
