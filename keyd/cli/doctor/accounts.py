"""Users and groups: keyd tells its peers apart by them."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterator
from typing import Final

from keyd.cli.doctor.findings import Finding, fault, good

KEYD: Final = "osmoda-keyd"
EGRESS: Final = "osmoda-egress"
RECONCILE: Final = "osmoda-reconcile"
CONNECT: Final = "osmoda"
"""The group that may connect to keyd's socket."""
_USERS: Final = (KEYD, EGRESS, RECONCILE)
_MAKE: Final = "systemd-sysusers osmoda.conf"


def check_accounts(
    user: Callable[[str], pwd.struct_passwd] = pwd.getpwnam,
    group: Callable[[str], grp.struct_group] = grp.getgrnam,
) -> Iterator[Finding]:
    """A user for each daemon, none of them root, and those that ask keyd in the group that may."""
    missing = [name for name in _USERS if not _exists(user, name)]
    if missing:
        yield fault("users", f"there is no user {', '.join(missing)}", _MAKE)
    else:
        yield from _distinct({name: user(name).pw_uid for name in _USERS})
    if not _exists(group, CONNECT):
        yield fault("groups", f"there is no group {CONNECT}", _MAKE)
        return
    connect = group(CONNECT)
    outside = [
        name
        for name in (EGRESS, RECONCILE)
        if name not in missing and name not in connect.gr_mem and user(name).pw_gid != connect.gr_gid
    ]
    for name in outside:
        yield fault(
            "groups",
            f"{name} is not in the group {CONNECT}, and cannot connect to keyd",
            f"usermod -aG {CONNECT} {name}, then restart {name}",
        )
    if not outside:
        yield good("groups", f"{EGRESS} and {RECONCILE} are in {CONNECT}")


def _distinct(uids: dict[str, int]) -> Iterator[Finding]:
    if 0 in uids.values() or len(set(uids.values())) < len(uids):
        listed = ", ".join(f"{name} {uid}" for name, uid in uids.items())
        yield fault(
            "users",
            f"the daemons' users must differ from each other and from root: {listed}",
            f"give each its own uid; {_MAKE} makes users that are missing",
        )
    else:
        yield good("users", ", ".join(uids))


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except KeyError:
        return False
    return True
