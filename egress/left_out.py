"""What libraries import for things that egress never starts: 17 MB, and a fifth of the time that a start takes.

Each module is replaced by an empty one before anybody asks for it, with the names that mitmproxy reads while it is
imported. Whatever else were asked of it is an AttributeError.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Final

EMPTIED: Final[Mapping[str, Sequence[str]]] = {
    "mitmproxy_rs": ("Stream",),  # UDP, WireGuard, and taking over the traffic of a whole machine
    "aioquic._crypto": (
        "AEAD",
        "CryptoError",
        "HeaderProtection",
    ),  # the ciphers of QUIC, with an OpenSSL of their own
    "ruamel": (),
    "ruamel.yaml": (),  # mitmdump's configuration files
    "pyparsing": (),
    "mitmproxy.command_lexer": ("unquote",),  # the command line of mitmproxy's screen
    "rich": (),  # structlog's colours, where another program has brought it
}


def leave_out() -> None:
    """Safe to repeat, and without effect on what has been imported already."""
    _empty_package("mitmproxy.addons")
    for name, members in EMPTIED.items():
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update({member: type(member, (Exception,), {}) for member in members})


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
