"""Where applications connect: sockets that the service manager passed, or that egress binds itself."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from egress.config import split_listen
from keyd.configfile import ConfigError
from keyd.service_manager import passed_sockets

BACKLOG: Final = 1024
"""Connections that wait in the kernel while all workers are busy; it cuts this down to net.core.somaxconn."""


def listeners(listen: str, environment: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that the service manager passed, or new ones for `listen`. Raises ConfigError."""
    if passed := passed_sockets(environment):
        for name, sock in passed:
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                raise ConfigError(
                    f"the service manager passed {name}, which is no TCP socket",
                    "keep ListenStream=ADDRESS:PORT in the socket unit",
                )
        return [_prompt(sock) for _, sock in passed]
    return _bound(listen)


def metrics_listener(listen: str) -> socket.socket:
    """A new socket for `metrics_listen`. Raises ConfigError."""
    (sock,) = _bound(listen, key="metrics_listen")
    return sock


def _bound(listen: str, key: str = "listen") -> list[socket.socket]:
    host, port = split_listen(listen)
    bound: list[socket.socket] = []
    try:
        for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            # A name may have two addresses; both get the port that the first one got.
            wanted = bound[0].getsockname()[1] if bound and port == 0 else port
            sock = socket.create_server((address[0], wanted), family=family, backlog=BACKLOG)
            sock.setblocking(False)
            bound.append(_prompt(sock))
    except OSError as error:
        for sock in bound:
            sock.close()
        fault = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"cannot listen on {listen}: {fault}", f"see `{key}` in egress.toml; is egress running already?"
        ) from None
    return bound


def _prompt(sock: socket.socket) -> socket.socket:
    """Connections inherit this. asyncio sets it by itself only where the socket names its protocol, which these do
    not; without it the body of a small answer waits 40 ms for the client's delayed ACK of its head."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
