"""Accepts connections, within each peer's share, and lets those that are being answered finish at the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from keyd.connection import Answer, Connection
from keyd.floods import Flood
from keyd.http import Refused
from keyd.peer import peer_of
from keyd.quotas import Quotas
from keyd.reasons import Reason

BACKLOG: Final = 1024
"""Connections that wait to be accepted. Who overruns its share is turned away quickly, but must not fill the queue."""
TURNED_AWAY_AT_ONCE: Final = 32
"""Connections beyond a share that are told so, at the same time; the others are closed without a word."""
FINISH_S: Final = 10.0
"""For requests that are being answered when keyd stops; a decision takes milliseconds."""
_LOGGED_PER_MINUTE: Final = 1

log = structlog.get_logger("keyd.listener")


class Listener:
    """The connections of one listening socket."""

    def __init__(self, answer: Answer, quotas: Quotas, clock: Callable[[], int]) -> None:
        """`clock` gives Unix time in microseconds, for logs alone."""
        self._answer = answer
        self._quotas = quotas
        self._clock = clock
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._turned_away = 0
        self._overruns = Flood(_LOGGED_PER_MINUTE)
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accepts on `listener`, a Unix stream socket that is bound."""
        self._server = await asyncio.start_server(self._accepted, sock=listener, backlog=BACKLOG)

    async def close(self) -> None:
        """No new connections and requests; those that are being answered are, for FINISH_S seconds at the most."""
        if self._server is None:
            return
        self._server.close()
        for task, connection in self._open.items():
            if connection.busy:
                connection.finish()
            else:
                task.cancel()
        if self._open:
            _, late = await asyncio.wait(self._open, timeout=FINISH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        connection = Connection(reader, writer, peer, self._answer)
        place = self._quotas.take(peer)
        if place is None:
            if (suppressed := self._overruns.note(str(peer), self._clock())) is not None:
                log.warning("keyd.connections_exceeded", uid=peer.uid, pid=peer.pid, suppressed=suppressed)
            await self._turn_away(connection, writer, str(peer))
            return
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = connection
        try:
            await connection.serve()
        finally:
            self._quotas.give_back(place)
            del self._open[task]

    async def _turn_away(self, connection: Connection, writer: asyncio.StreamWriter, who: str) -> None:
        if self._turned_away >= TURNED_AWAY_AT_ONCE:
            writer.transport.abort()
            return
        self._turned_away += 1
        try:
            await connection.turn_away(
                Refused(Reason.CONNECTIONS_EXCEEDED, f"{who} has as many connections as it may have", 503)
            )
        finally:
            self._turned_away -= 1
