"""mitmproxy's server, on sockets that are bound already."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from mitmproxy.addons import proxyserver
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler, RegularInstance

from egress.listener import BACKLOG

_ACCEPT_AT_ONCE: Final = 1
"""asyncio would take a whole burst of connections in one go, and leave nothing to workers that are idle."""


class Proxyserver(proxyserver.Proxyserver):
    """mitmproxy's server on sockets that are bound already; workers share them."""

    name = "proxyserver"  # by which the rest of mitmproxy finds this addon

    def __init__(self, sockets: Sequence[socket.socket], on_connections: Callable[[int], None]) -> None:
        """`on_connections` is told how many there are: once the first can come, and whenever that changes."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._sockets = sockets
        self._on_connections = on_connections

    async def setup_servers(self) -> bool:
        instance: RegularInstance = RegularInstance.make("regular", self)
        for sock in self._sockets:
            server = await asyncio.start_server(instance.handle_stream, sock=sock, backlog=_ACCEPT_AT_ONCE)
            sock.listen(BACKLOG)  # asyncio has set the kernel's to its own
            instance._servers.append(server)
        self.servers._instances[instance.mode] = instance
        self._on_connections(0)
        return True

    @contextmanager
    def register_connection(
        self, connection_id: tuple[Any, ...] | str, handler: ProxyConnectionHandler
    ) -> Iterator[None]:
        try:
            with super().register_connection(connection_id, handler):
                self._on_connections(len(self.connections))
                yield
        finally:
            self._on_connections(len(self.connections))
