"""What the loopback of this machine can do, and addresses there at which nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest


@contextmanager
def refusing_port() -> Iterator[int]:
    """A TCP port of 127.0.0.1 that refuses every connection, and that no other program can take meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        yield int(taken.getsockname()[1])


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="the loopback of this machine has no IPv6")


def _largest(buffer: str) -> int:
    return int(Path(f"/proc/sys/net/ipv4/{buffer}").read_text().split()[2])


SEND_BUFFER: Final = _largest("tcp_wmem")
RECEIVE_BUFFER: Final = _largest("tcp_rmem")
"""Bytes that the kernel lets wait at most on either end of a connection: 4 and 6 MiB for long, 4 and 32 since Linux 6.18."""
