"""Rules of the kernel's packet filter, so that chosen users reach the network through egress alone (nftables, nft(8)).

A proxy variable is a request to the program; this is what holds when the program does not listen. The rules stand in a
table of their own, so that loading them again or taking them away touches nobody else's.
"""

from __future__ import annotations

import ipaddress
import pwd
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from egress.config import split_listen

TABLE: Final = "inet osmoda_fence"
REMOVE: Final = f"table {TABLE}\ndelete table {TABLE}\n"
"""Takes the table away whether it is there or not: naming it makes it, and one transaction does both."""


class Fenced(NamedTuple):
    """The uids behind the entries of `fence`, and the entries that are no user of this machine."""

    uids: frozenset[int]
    unknown: list[str]


def resolve(
    entries: Iterable[str], uid_of: Callable[[str], int] = lambda name: pwd.getpwnam(name).pw_uid
) -> Fenced:
    """User names and "uid:1000". Whoever is unknown must not keep the others from being fenced in."""
    uids, unknown = set(), []
    for entry in entries:
        try:
            uids.add(int(entry[4:]) if entry.startswith("uid:") else uid_of(entry))
        except KeyError:
            unknown.append(entry)
    return Fenced(frozenset(uids), unknown)


def ruleset(uids: frozenset[int], listen: str) -> str:
    """What nft(8) reads: `uids` may connect to egress at `listen`, and to nothing else. Replaces what was loaded.

    Raises ValueError for a `listen` that is no fixed address, or for uids that must reach the network.
    """
    if 0 in uids:
        raise ValueError("root cannot be fenced in: it could take the rules away")
    if not uids:
        return REMOVE
    elements = ", ".join(str(uid) for uid in sorted(uids))
    return f"""{REMOVE}table {TABLE} {{
  set fenced {{
    type uid
    elements = {{ {elements} }}
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    meta skuid @fenced goto fenced
  }}
  chain fenced {{
    # Answers on connections that others opened to one of their programs. They open none this way.
    ct direction reply accept
    oifname "lo" {_destination(listen)} accept
    # At once, rather than silence until a timeout. Both families; DNS too: egress resolves the names.
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
}}
"""


def _destination(listen: str) -> str:
    """The rule's words for egress's own address and port."""
    host, port = split_listen(listen)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"listen is {listen}: a fence needs an address, like 127.0.0.1:19999") from None
    if port == 0:
        raise ValueError(f"listen is {listen}: a fence needs a fixed port")
    if address.is_unspecified:
        return f"tcp dport {port}"
    return f"{'ip' if address.version == 4 else 'ip6'} daddr {address} tcp dport {port}"
