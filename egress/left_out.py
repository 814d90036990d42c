"""What libraries import for things that egress never starts: 17 MB, and a fifth of the time that a start takes.

Each module is replaced before anybody asks for it by one with only the classes that are named by code that does run:
to inherit from, or in `isinstance`. Whatever else were asked of it is an AttributeError (ADR 0014).
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Final

EMPTIED: Final[Mapping[str, Sequence[str]]] = {
    # UDP, WireGuard, and taking over the traffic of a whole machine
    "mitmproxy_rs": ("Stream", "udp.UdpServer", "wireguard.WireGuardServer"),
    # the ciphers of QUIC, with an OpenSSL of their own
    "aioquic._crypto": ("AEAD", "CryptoError", "HeaderProtection"),
    # mitmdump's configuration files
    "ruamel": (),
    "ruamel.yaml": (),
    # the command line of mitmproxy's screen
    "pyparsing": (),
    "mitmproxy.command_lexer": ("unquote",),
    # structlog's colours, where another program has brought it
    "rich": (),
}


def leave_out() -> None:
    """Safe to repeat, and without effect on what has been imported already."""
    _empty_package("mitmproxy.addons")
    for name, members in EMPTIED.items():
        if name not in sys.modules:
            sys.modules[name] = _emptied(name, members)


def _emptied(name: str, members: Sequence[str]) -> types.ModuleType:
    module = types.ModuleType(name)
    for member in members:
        *within, last = member.split(".")
        place: object = module
        for part in within:
            place = vars(place).setdefault(part, types.SimpleNamespace())
        setattr(place, last, type(last, (Exception,), {}))
    return module


def _empty_package(name: str) -> None:
    """Keeps its modules: its `__init__` imports every addon of mitmdump, and with them flask, ldap3 and others; the few
    that egress uses are imported by their own names."""
    parent, _, folder = name.partition(".")
    spec = importlib.util.find_spec(parent)
    if name in sys.modules or spec is None or spec.submodule_search_locations is None:
        return
    package = types.ModuleType(name)
    package.__path__ = [f"{location}/{folder}" for location in spec.submodule_search_locations]
    sys.modules[name] = package
