"""Who is at the other end of the socket: kernel credentials (SO_PEERCRED) and the roles they carry."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keyd.api import Role
from keyd.config import PeerSettings
from keyd.configfile import ConfigError

_UCRED: Final = struct.Struct("=iII")  # struct ucred: pid_t, uid_t, gid_t (linux/socket.h)


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that connected, as the kernel saw it at connect time."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid:{self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """SO_PEERCRED of a connected Unix socket (unix(7))."""
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


@dataclass(frozen=True, slots=True)
class Roles:
    """The [peers] table with its names resolved, once, at start."""

    uids: Mapping[Role, frozenset[int]]
    gids: Mapping[Role, frozenset[int]]

    @classmethod
    def resolve(cls, peers: PeerSettings) -> Roles:
        """Raises ConfigError for a user or group that does not exist."""
        uids: dict[Role, frozenset[int]] = {}
        gids: dict[Role, frozenset[int]] = {}
        for role in Role:
            entries: Sequence[str | int] = getattr(peers, role.value)
            uids[role] = frozenset(_uid(role, e) for e in entries if not _is_group(e))
            gids[role] = frozenset(_gid(role, str(e)) for e in entries if _is_group(e))
        return cls(uids, gids)

    def of(self, peer: Peer) -> frozenset[Role]:
        groups = _groups(peer) if any(self.gids.values()) else frozenset()
        return frozenset(role for role in Role if peer.uid in self.uids[role] or groups & self.gids[role])

    def any_of(self, peer: Peer, wanted: frozenset[Role]) -> bool:
        """Whether `peer` has one of the roles `wanted`. Its groups, which take reading two files, are asked for only if
        its user alone has none: egress, in whose name payments are asked for, is a user."""
        return any(peer.uid in self.uids[role] for role in wanted) or bool(self.of(peer) & wanted)


def _is_group(entry: str | int) -> bool:
    return isinstance(entry, str) and entry.startswith("@")


def _uid(role: Role, entry: str | int) -> int:
    if isinstance(entry, int) or entry.isdecimal():
        return int(entry)
    try:
        return pwd.getpwnam(entry).pw_uid
    except KeyError:
        raise ConfigError(
            f"peers.{role}: there is no user {entry!r}", "create the user or correct the name"
        ) from None


def _gid(role: Role, entry: str) -> int:
    try:
        return grp.getgrnam(entry[1:]).gr_gid
    except KeyError:
        raise ConfigError(
            f"peers.{role}: there is no group {entry[1:]!r}", "create the group or correct the name"
        ) from None


def _groups(peer: Peer) -> frozenset[int]:
    """The process's own group, and those that the user database gives its user."""
    try:
        user = pwd.getpwuid(peer.uid)
    except KeyError:
        return frozenset({peer.gid})
    return frozenset({peer.gid, *os.getgrouplist(user.pw_name, user.pw_gid)})
