"""Where egress goes: not to private, loopback, link-local or metadata addresses, unless the admin says so.

The filter sits in the resolver call that the connecting code itself makes, so there is no second lookup that a
lying resolver could answer differently (DNS rebinding). Literal addresses never reach the resolver; they are
checked in the `server_connect` hook.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from mitmproxy import http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from egress.origin import normal_host

REFUSED: Final = "destination is private"
"""Marks the errors of this module: mitmproxy hands an error on as text only."""

_METADATA: Final = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Cloud metadata services on global addresses (Azure WireServer). The others are link-local or private."""
_BRACKETED: Final = re.compile(r"\[([0-9a-fA-F:.]+)\](?::(\d{1,5}))?")
_NAMED: Final = re.compile(r"([^\s/*:\[\]]+)(?::(\d{1,5}))?")
_IPV6: Final = re.compile(r"[0-9a-fA-F.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_RETIRED: Final = tuple(map(ipaddress.ip_network, ("fec0::/10", "::/96", "::ffff:0:0:0/96")))
"""Site-local, IPv4-compatible and IPv4-translated addresses: nobody's on the Internet, and some kernels still route
them to what they used to mean."""

_destination: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar(
    "destination", default=None
)
"""(host, port) that the current task connects to for an application; None in all other tasks."""

type _Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type _AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class DestinationRefused(OSError):
    """Every address of the destination is private."""

    def __init__(self) -> None:
        super().__init__(REFUSED)


def is_private(address: str) -> bool:
    """Whether `address`, an IP literal, is anything but a public unicast address.

    An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4) counts as itself. Raises ValueError if it is no
    IP literal.
    """
    ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = embedded or ip
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in _RETIRED):
        return True
    return not ip.is_global or ip.is_multicast or ip in _METADATA


@dataclass(frozen=True, slots=True)
class AllowedPrivate:
    """One entry of `allow_private`: a host name or address, and a port (None: every port)."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`host`, `host:port`, `[v6]`, `[v6]:port`. Raises ValueError with the way out."""
        entry = text.strip()
        if match := _BRACKETED.fullmatch(entry) or _NAMED.fullmatch(entry):
            host, port = match[1], int(match[2]) if match[2] else None
        else:
            host, port = entry, None  # an IPv6 address alone, or nothing sensible
        normal = normal_host(host) if match or _IPV6.fullmatch(host) else None
        if normal is None or not 1 <= (port or 1) <= 65535:
            raise ValueError(
                f"{text!r}: write a host or an address, with or without a port: `127.0.0.1:4021`"
            )
        return cls(normal, port)

    def covers(self, host: str, port: int) -> bool:
        return normal_host(host) == self.host and self.port in (None, port)


class Guard:
    """mitmproxy addon. Filters the destinations of all upstream connections of this process."""

    def __init__(self, allow: Iterable[AllowedPrivate]) -> None:
        self._allow = tuple(allow)

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put the filter into `loop`'s resolver, which `asyncio.open_connection` uses."""
        resolve = loop.getaddrinfo

        async def getaddrinfo(host: Any, port: Any, **kwargs: Any) -> list[_AddressInfo]:
            found = await resolve(host, port, **kwargs)
            destination = _destination.get()
            return found if destination is None else self._permitted(destination, found)

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Runs in the task that connects next, so the resolver sees what is set here."""
        if data.server.address is None:
            return
        host, port = data.server.address[0], data.server.address[1]
        _destination.set((host, port))
        if self._is_refused_literal(host, port):
            data.server.error = REFUSED

    def _is_refused_literal(self, host: str, port: int) -> bool:
        try:
            return is_private(host) and not self._allows(host, port)
        except ValueError:
            return False  # a name: the resolver decides

    def _permitted(self, destination: tuple[str, int], found: list[_AddressInfo]) -> list[_AddressInfo]:
        host, port = destination
        if self._allows(host, port):
            return found
        permitted = []
        for info in found:
            family, address = info[0], str(info[4][0])
            if family not in (socket.AF_INET, socket.AF_INET6):
                continue
            if not is_private(address) or self._allows(address, port):
                permitted.append(info)
        if not permitted:
            raise DestinationRefused
        return permitted

    def _allows(self, host: str, port: int) -> bool:
        return any(entry.covers(host, port) for entry in self._allow)


def refusal() -> http.Response:
    """What the application gets; the reason header is added where all answers get it."""
    return http.Response.make(
        403,
        b"osmoda-egress: this host has a private address; `allow_private` in egress.toml permits it\n",
        {"Content-Type": "text/plain; charset=utf-8"},
    )
