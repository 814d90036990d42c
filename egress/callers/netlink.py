"""Asks the kernel who owns a TCP socket of this machine: NETLINK_SOCK_DIAG, the exact connection alone.

The question is answered inside the system call that asks it, in microseconds; `/proc/net/tcp` would be read as a
whole, in milliseconds. Sources: sock_diag(7), netlink(7), linux/inet_diag.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NO_COOKIE: Final = 0xFFFFFFFF
_ALL_STATES: Final = 0xFFFFFFFF

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_REQUEST: Final = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, pad, states
_SOCKET_ID: Final = struct.Struct("!HH16s16s12x")  # inet_diag_sockid: ports, addresses; interface and cookie
_MESSAGE: Final = struct.Struct("=BBBB48s5I")
"""inet_diag_msg: family, state, timer, retransmits, id, expires, queues, uid, inode."""

_CONNECTED: Final = frozenset({1, 4, 5, 8})
"""ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT (net/tcp_states.h). In all others the socket found is not the
other end of a connection that we hold: a listener on the same port, or a successor that is only connecting."""
_ANSWER_SIZE: Final = 4096

type Address = tuple[str, int]
"""IP literal and port."""
type _Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class NetlinkUnavailable(Exception):
    """The kernel was not asked: no such socket family here, or it is forbidden."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a socket. `uid` is that of its creator, in our user namespace."""

    uid: int
    inode: int


def socket_owner(local: Address, remote: Address) -> Owner | None:
    """The owner of the TCP socket at `local` that is connected to `remote`, both of them on this machine.

    None: there is no such socket in our network namespace, or no process holds it any more. Never blocks. Raises
    NetlinkUnavailable, and ValueError if an address is no IP literal.
    """
    question = encode_question(local, remote)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.setblocking(False)
            kernel.sendto(question, (0, 0))
            answer = kernel.recv(_ANSWER_SIZE)
    except OSError as error:
        raise NetlinkUnavailable(error.strerror or type(error).__name__) from error
    return decode_answer(answer, local, remote)


def encode_question(local: Address, remote: Address) -> bytes:
    """nlmsghdr and inet_diag_req_v2 for one connection."""
    source, destination = _ip(local), _ip(remote)
    both_4 = isinstance(source, ipaddress.IPv4Address) and isinstance(destination, ipaddress.IPv4Address)
    family = socket.AF_INET if both_4 else socket.AF_INET6
    identity = struct.pack(
        "!HH16s16s", local[1], remote[1], source.packed.ljust(16, b"\0"), destination.packed.ljust(16, b"\0")
    ) + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + identity
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body


def decode_answer(answer: bytes, local: Address, remote: Address) -> Owner | None:
    """The owner in the kernel's answer, if that is about exactly this connection."""
    if len(answer) < _HEADER.size + _MESSAGE.size:
        return None  # NLMSG_ERROR: no such socket
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    family, state, _, _, identity, _, _, _, uid, inode = _MESSAGE.unpack_from(answer, _HEADER.size)
    if state not in _CONNECTED or _ends(family, identity) != (_end(local), _end(remote)):
        return None
    # A socket that its process has closed belongs to nobody, and the kernel then says uid 0.
    return Owner(uid, inode) if inode else None


def _ends(family: int, identity: bytes) -> tuple[tuple[_Ip, int], tuple[_Ip, int]]:
    source_port, destination_port, source, destination = _SOCKET_ID.unpack(identity)
    size = 4 if family == socket.AF_INET else 16
    return (
        (_plain(ipaddress.ip_address(source[:size])), source_port),
        (_plain(ipaddress.ip_address(destination[:size])), destination_port),
    )


def _end(address: Address) -> tuple[_Ip, int]:
    return _ip(address), address[1]


def _ip(address: Address) -> _Ip:
    return _plain(ipaddress.ip_address(address[0].partition("%")[0]))


def _plain(ip: _Ip) -> _Ip:
    """An IPv4 address that a dual-stack socket wears as IPv6 is the IPv4 address, for both kinds of socket."""
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip
