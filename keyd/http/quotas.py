"""How many connections each peer may have, so that nobody takes the places of the others.

Counts, and says yes or no. Who wants to pay must always get through, whatever strangers, agents and scripts do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from keyd.api import Role
from keyd.peer import Peer, Roles


class Share(NamedTuple):
    """Connections that users of one role may have."""

    each: int
    """One user alone."""
    together: int
    """All users of this role."""


EGRESS_CONNECTIONS: Final = 1024
"""One for each payment that is being asked for at the same time."""
SHARES: Final[Mapping[Role | None, Share]] = {
    Role.EGRESS: Share(EGRESS_CONNECTIONS, EGRESS_CONNECTIONS),
    Role.ADMIN: Share(32, 64),  # people, scripts, a dashboard
    Role.RECONCILER: Share(8, 16),  # one at a time, of one process
    Role.AGENT: Share(16, 64),  # one or two of each bridge
    None: Share(4, 16),  # strangers: enough to be told so
}
"""A user with several roles counts under the first of them, in this order."""
OWN_DESCRIPTORS: Final = 64
"""Ledger, its readers, wallet files, logs, sockets of the service manager."""


def shares(descriptors: int) -> Mapping[Role | None, Share]:
    """SHARES, with that of egress cut to what `descriptors` (RLIMIT_NOFILE) leave over."""
    others = sum(share.together for role, share in SHARES.items() if role is not Role.EGRESS)
    left = max(1, min(EGRESS_CONNECTIONS, descriptors - others - OWN_DESCRIPTORS))
    return {**SHARES, Role.EGRESS: Share(left, left)}


class Place(NamedTuple):
    """A connection's place among those of its role."""

    role: Role | None
    uid: int


class Quotas:
    """Counts open connections by user and by role."""

    def __init__(self, roles: Roles, shares: Mapping[Role | None, Share]) -> None:
        self._roles = roles
        self._shares = shares
        self._by_role: Counter[Role | None] = Counter()
        self._by_user: Counter[Place] = Counter()

    def take(self, peer: Peer) -> Place | None:
        """A place for one connection, to be given back; None if there is none left for this peer."""
        held = self._roles.of(peer)
        role = next((role for role in self._shares if role in held), None)
        place, share = Place(role, peer.uid), self._shares[role]
        if self._by_role[role] >= share.together or self._by_user[place] >= share.each:
            return None
        self._by_role[role] += 1
        self._by_user[place] += 1
        return place

    def give_back(self, place: Place) -> None:
        self._by_role[place.role] -= 1
        self._by_user[place] -= 1
        if not self._by_user[place]:
            del self._by_user[place]  # or the table would grow with every user that ever came
