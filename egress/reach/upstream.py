"""Another proxy between egress and the Internet (`upstream_proxy`): CONNECT for everything but plain http.

It sits below mitmproxy, in the call that connects: what is above sees a connection to the server, and judges, pays and
repeats on it as on any other. Plain http is sent in absolute-form (RFC 9112 section 3.2.2), since most proxies allow
CONNECT to port 443 alone. Names are resolved by that proxy; `egress.reach.guard` refuses what is private by its spelling.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from mitmproxy import http
from mitmproxy.connection import Connection, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from egress.reach.destinations import AllowedPrivate, covered, normal_host
from egress.reach.proxy_address import ProxyAddress

CONNECT_LIMIT_S: Final = 30.0
"""For the answer to CONNECT: the proxy looks up and connects meanwhile. A kernel gives up on a silent host later."""
_MAX_HEAD: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")

type _Connected = tuple[asyncio.Transport, asyncio.BaseProtocol]


class UpstreamProxyError(OSError):
    """The upstream proxy did not open the way to a server."""


_destination: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar(
    "by_proxy", default=None
)
"""(host, port) that the current task reaches by CONNECT; None: it connects by itself."""
_to_proxy: contextvars.ContextVar[bool] = contextvars.ContextVar("to_proxy", default=False)
"""Whether the current task connects to the proxy for plain http."""
_forwarding: WeakKeyDictionary[Connection, str | None] = WeakKeyDictionary()
"""Connections on which the proxy reads requests itself → Proxy-Authorization."""


class UpstreamProxy:
    """mitmproxy addon. Comes after the guard, which has refused what may not be reached at all."""

    def __init__(self, proxy: ProxyAddress, direct: Iterable[AllowedPrivate]) -> None:
        """`direct`: hosts of this machine or network, which the proxy need not know."""
        self._proxy = proxy
        self._direct = tuple(direct)
        self._asked_by_connect: WeakSet[Connection] = WeakSet()

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put it into `loop.create_connection`, which `asyncio.open_connection` uses."""
        connect = loop.create_connection

        async def create_connection(
            factory: Callable[[], asyncio.BaseProtocol], host: Any = None, port: Any = None, **options: Any
        ) -> _Connected:
            if _to_proxy.get():
                return await connect(factory, self._proxy.host, self._proxy.port, **options)
            if (destination := _destination.get()) is None:
                return await connect(factory, host, port, **options)
            transport, handshake = await connect(_Handshake, self._proxy.host, self._proxy.port, **options)
            try:
                async with asyncio.timeout(CONNECT_LIMIT_S):
                    return transport, await handshake.tunnel(self._request(*destination), factory)
            except BaseException:
                transport.abort()
                raise

        loop.create_connection = create_connection  # type: ignore[assignment]

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """What an application puts through a CONNECT of its own is not read, so not sent in absolute-form."""
        self._asked_by_connect.add(flow.server_conn)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Runs in the task that connects next."""
        server = data.server
        if server.address is None:
            return
        host, port = server.address[0], server.address[1]
        by_proxy = not covered(self._direct, host, port)
        tunnel = server.tls or server in self._asked_by_connect
        _destination.set((host, port) if by_proxy and tunnel else None)
        _to_proxy.set(by_proxy and not tunnel)
        if by_proxy and not tunnel:
            _forwarding[server] = self._proxy.authorization

    def _request(self, host: str, port: int) -> bytes:
        authority = _authority(host, port)
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if (authorization := self._proxy.authorization) is not None:
            lines.append(f"Proxy-Authorization: {authorization}")
        return "\r\n".join([*lines, "", ""]).encode()


class _Handshake(asyncio.Protocol):
    """Speaks CONNECT on a new connection to the proxy, then makes room for the protocol that was wanted."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def tunnel(
        self, request: bytes, factory: Callable[[], asyncio.BaseProtocol]
    ) -> asyncio.BaseProtocol:
        """The protocol of `factory`, connected. Raises UpstreamProxyError if the proxy refuses or hangs up."""
        self._transport.write(request)
        await self._complete
        head, _, rest = bytes(self._head).partition(b"\r\n\r\n")
        status = _STATUS.match(head)
        if status is None or not status[1].startswith(b"2"):
            said = status[1].decode() if status else "no HTTP"
            raise UpstreamProxyError(f"the upstream proxy answered {said} to CONNECT")
        protocol = factory()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if rest and isinstance(protocol, asyncio.Protocol):
            protocol.data_received(rest)
        self._transport.resume_reading()
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._transport.pause_reading()
            self._complete.set_result(None)
        elif len(self._head) > _MAX_HEAD:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._complete.done():
            self._complete.set_exception(UpstreamProxyError("the upstream proxy hung up on CONNECT"))


def for_proxy(request: http.Request, connection: Connection) -> http.Request:
    """`request` as it has to be sent on `connection`: in absolute-form and with our credential, if a proxy reads it."""
    if connection not in _forwarding:
        return request
    assert isinstance(connection, Server)
    assert connection.address is not None
    request = request.copy()
    host, port = connection.address[0], connection.address[1]
    request.authority = _authority(host, port) if port != 80 else _authority(host, port).removesuffix(":80")
    if (authorization := _forwarding[connection]) is not None:
        request.headers["Proxy-Authorization"] = authorization
    return request


def _authority(host: str, port: int) -> str:
    name = normal_host(host) or host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
