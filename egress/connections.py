"""How many connections one caller may hold: a program that leaks them must not use up everybody's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog
from mitmproxy import http
from mitmproxy.connection import Client

from egress.paying.exchange import EGRESS_HEADER, Exchange
from keyd.reasons import Reason

ANSWERED: Final = 32
"""Connections beyond the limit that are answered with 429; further ones are closed without a word, because one that
asks nothing would be held like any other."""

_log = structlog.get_logger("egress")


class ConnectionLimit:
    """mitmproxy addon, behind `Identity`, which knows the owner of a connection."""

    def __init__(self, limit: int, owner: Callable[[Client], str]) -> None:
        """`owner`: the local user of a connection, or the host that it comes from."""
        self._limit = limit
        self._owner = owner
        self._open: Counter[str] = Counter()
        self._owners: dict[str, str] = {}
        """Connection → whom it counts for."""
        self._refused: set[str] = set()

    def client_connected(self, client: Client) -> None:
        owner = self._owners[client.id] = self._owner(client)
        self._open[owner] += 1
        beyond = self._open[owner] - self._limit
        if beyond == 1:
            _log.warning("egress.connections.refused", owner=owner, limit=self._limit)
        if beyond > ANSWERED:
            client.error = "too many connections"  # mitmproxy closes it
        elif beyond > 0:
            self._refused.add(client.id)

    def client_disconnected(self, client: Client) -> None:
        self._refused.discard(client.id)
        if (owner := self._owners.pop(client.id, None)) is not None:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    def http_connect(self, flow: http.HTTPFlow) -> None:
        self._answer_if_refused(flow)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._answer_if_refused(flow)

    def _answer_if_refused(self, flow: http.HTTPFlow) -> None:
        if flow.client_conn.id in self._refused and flow.response is None:
            Exchange.of(flow).refusal = Reason.TOO_MANY_CONNECTIONS
            flow.response = http.Response.make(
                429,
                b"osmoda-egress: too many connections (`max_connections_per_caller` in egress.toml)\n",
                {
                    "Content-Type": "text/plain; charset=utf-8",
                    "Connection": "close",
                    EGRESS_HEADER: f"rejected; reason={Reason.TOO_MANY_CONNECTIONS}",
                },
            )
