"""The sockets that applications connect to."""

from __future__ import annotations

import socket

import pytest

from egress.listener import listeners
from tests.loopback import needs_ipv6


@pytest.mark.parametrize("listen", ["127.0.0.1:0", pytest.param("[::1]:0", marks=needs_ipv6)])
def test_small_answers_are_not_held_back(listen: str) -> None:
    """Nagle's algorithm and a delayed ACK together cost 40 ms a request."""
    [listener] = listeners(listen, {})
    with listener, socket.create_connection(listener.getsockname()[:2]):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
