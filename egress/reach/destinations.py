"""Hosts by name and address: how they are written the same, which are private, which egress.toml names.

Nothing here connects or resolves; `egress.reach.guard` judges connections with it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import ValidationError

from keyd.api import Origin
from keyd.domains import DomainPattern, any_matches

_METADATA: Final = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Cloud metadata services on global addresses (Azure WireServer). The others are link-local or private."""
_BRACKETED: Final = re.compile(r"\[([0-9a-fA-F:.]+)\](?::(\d{1,5}))?")
_NAMED: Final = re.compile(r"([^\s/*:\[\]]+)(?::(\d{1,5}))?")
_IPV6: Final = re.compile(r"[0-9a-fA-F.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_RETIRED: Final = tuple(map(ipaddress.ip_network, ("fec0::/10", "::/96", "::ffff:0:0:0/96")))
"""Site-local, IPv4-compatible and IPv4-translated addresses: nobody's on the Internet, and some kernels still route
them to what they used to mean."""
_PRIVATE_SUFFIXES: Final = (
    "localhost",  # RFC 6761
    "local",  # RFC 6762
    "home.arpa",  # RFC 8375
    "internal",  # reserved by ICANN in 2024; metadata.google.internal
)

type _Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def normal_host(host: str) -> str | None:
    """Lower-case A-labels (IDNA 2003, as mitmproxy resolves them) or a compressed IP literal; None if neither."""
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        pass
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None


def origin_of(scheme: Literal["http", "https"], host: str, port: int) -> Origin | None:
    """`host` normalised to A-labels or a compressed IP literal; None if it is not a host."""
    if (normal := normal_host(host)) is None:
        return None
    try:
        return Origin(scheme=scheme, host=normal, port=port)
    except ValidationError:
        return None


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


def is_private_name(host: str) -> bool:
    """Whether the name alone says that its address is private; for hosts that somebody else resolves.

    True of `localhost` and other reserved suffixes, of names of one label (search domains complete those), and of
    private IPv4 addresses in the spellings that inet_aton(3) takes and the standard does not: `127.1`, `0x7f000001`.
    Judged as it will be sent: in full-width digits and ideographic full stops the same name can be written once more.
    """
    name = (normal_host(host) or host.lower()).rstrip(".")
    try:
        return is_private(socket.inet_ntoa(socket.inet_aton(name)))
    except OSError:
        pass
    labels = name.split(".")
    return len(labels) == 1 or any(
        labels[-suffix.count(".") - 1 :] == suffix.split(".") for suffix in _PRIVATE_SUFFIXES
    )


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


def covered(entries: Iterable[AllowedPrivate], host: str, port: int) -> bool:
    """Whether one of `entries` covers the destination."""
    return any(entry.covers(host, port) for entry in entries)


class AllowedDomains:
    """egress's own `allowed_domains`: where any traffic may go. Without entries: everywhere.

    A connection is judged, not what is said on it, so of an entry's scheme only the port counts that follows from it.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises ValueError with the way out."""
        self._patterns = tuple(DomainPattern.parse(entry) for entry in entries)

    def covers(self, host: str, port: int) -> bool:
        if not self._patterns:
            return True
        either = (origin_of("https", host, port), origin_of("http", host, port))
        return any(origin is not None and any_matches(self._patterns, origin) for origin in either)
