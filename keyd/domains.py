"""Which origins an entry of `allowed_domains` covers. One module for both sides: keyd decides with it who may
be paid, egress decides with it whose TLS to intercept, so the two can never read an entry differently.

    api.example.com           https, exactly this host, port 443
    api.example.com:8443      https, exactly this host and port
    *.example.com             https, any subdomain, port 443; not example.com itself
    https://api.example.com   the same as api.example.com; a port may follow
    http://127.0.0.1:4021     plain http, exactly this host and port
    *                         https, any host, any port; never plain http

Plain http is covered only by an entry that spells `http://` out: whoever sits on the path of a plain request
can write the price and the recipient of its 402.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from keyd.api import Origin

_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_FORMS: Final = "write `api.example.com`, `*.example.com`, `api.example.com:8443`, `http://host:port`, or `*`"


@dataclass(frozen=True, slots=True)
class DomainPattern:
    """One parsed entry of `allowed_domains`. Build it with `parse`."""

    scheme: Literal["http", "https"]
    host: str
    """Lower-case A-labels or an IP literal without brackets; the suffix after `*.` if `subdomains`; "" for `*`."""
    port: int | None
    """None only for `*`: any port."""
    subdomains: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, whose text says what is wrong and what to write instead."""
        entry = text.strip()
        if entry == "*":
            return cls("https", "", None)
        scheme, separator, rest = entry.lower().partition("://")
        if not separator:
            scheme, rest = "https", entry.lower()
        if scheme not in ("http", "https"):
            raise ValueError(f"{text!r}: unknown scheme {scheme!r}; {_FORMS}")
        # The URL of a page is the usual mistake; a path would be silently ignored, so it is refused.
        if re.search(r"[/?#@\s\\]", rest):
            raise ValueError(f"{text!r}: only scheme, host and port count, without a path or user; {_FORMS}")
        host, port = _split_port(rest, text)
        subdomains = host.startswith("*.")
        if subdomains:
            host = host[2:]
        if scheme == "http" and subdomains:
            raise ValueError(
                f"{text!r}: plain http is allowed host by host only; write `http://host:port` for each"
            )
        host = _normal_host(host, text)
        if subdomains and _is_ip(host):
            raise ValueError(f"{text!r}: an IP address has no subdomains; write the address alone")
        plain: Literal["http", "https"] = "http" if scheme == "http" else "https"
        return cls(plain, host, _DEFAULT_PORT[scheme] if port is None else port, subdomains)

    def matches(self, origin: Origin) -> bool:
        """Whether this entry covers `origin`, the origin egress really connected to."""
        if origin.scheme != self.scheme:
            return False
        if self.port is None:
            return True
        if origin.port != self.port:
            return False
        if self.subdomains:
            return origin.host.endswith("." + self.host) and len(origin.host) > len(self.host) + 1
        return _canonical_ip(origin.host) == self.host

    def denies(self, origin: Origin) -> bool:
        """Whether this entry of `denied_domains` covers `origin`. An entry without a port denies the host whatever the
        scheme and port: who writes `evil.example` means that host, and not its port 443."""
        host = origin.host.rstrip(".")
        if self.port is None:
            return True
        if (self.scheme, self.port) != ("https", _DEFAULT_PORT["https"]) and (
            origin.scheme != self.scheme or origin.port != self.port
        ):
            return False
        return host.endswith("." + self.host) if self.subdomains else _canonical_ip(host) == self.host

    def __str__(self) -> str:
        """The shortest entry that means the same."""
        if self.port is None:
            return "*"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "http://" if self.scheme == "http" else ""
        port = "" if self.port == _DEFAULT_PORT[self.scheme] else f":{self.port}"
        return scheme + ("*." if self.subdomains else "") + host + port


def any_matches(patterns: Iterable[DomainPattern], origin: Origin) -> bool:
    """Whether one of `patterns` covers `origin`. No patterns: nothing is covered."""
    return any(pattern.matches(origin) for pattern in patterns)


def _split_port(authority: str, text: str) -> tuple[str, int | None]:
    """Host (without brackets) and port of `authority`; None if it names no port."""
    if match := re.fullmatch(r"\[([0-9a-f:.]+)\](?::(\d{1,5}))?", authority):
        host, digits = match.group(1), match.group(2)
    elif authority.count(":") > 1:
        raise ValueError(f"{text!r}: put an IPv6 address in brackets, as in `http://[::1]:4021`")
    else:
        host, separator, digits = authority.partition(":")
        if separator and not re.fullmatch(r"[0-9]{1,5}", digits):
            raise ValueError(f"{text!r}: the port is not a number; {_FORMS}")
    if not digits:
        return host, None
    if not 1 <= int(digits) <= 65535:
        raise ValueError(f"{text!r}: the port must be between 1 and 65535")
    return host, int(digits)


def _normal_host(host: str, text: str) -> str:
    if _is_ip(host):
        return _canonical_ip(host)
    try:
        # The codec (IDNA 2003) that mitmproxy uses for the host it connects to: both sides must agree.
        ascii_host = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        ascii_host = ""
    if len(ascii_host) > 253 or not all(_LABEL.fullmatch(label) for label in ascii_host.split(".")):
        raise ValueError(f"{text!r}: not a host name; {_FORMS}")
    return ascii_host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _canonical_ip(host: str) -> str:
    """`0:0:0:0:0:0:0:1` → `::1`; a name comes back unchanged."""
    if ":" not in host and not host[-1:].isdigit():  # most hosts: a name, whatever it begins with
        return host
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host
