"""Accepts connections, within each peer's share, and lets those that are being answered finish at the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from keyd.http.connection import Answer, Connection
from keyd.http.messages import Refused
from keyd.http.quotas import Place, Quotas
from keyd.peer import Peer, peer_of
from keyd.reasons import Reason
from keyd.record.floods import Flood

BACKLOG: Final = 1024
"""Connections that wait to be accepted. Who overruns its share is turned away quickly, but must not fill the queue."""
TURNED_AWAY_AT_ONCE: Final = 32
"""Connections beyond a share that are told so, at the same time; the others are closed without a word."""
ACCEPT_AGAIN_S: Final = 0.1
"""After a connection could not be accepted. Trying on at once would take the processor from payments."""
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
        self._connections: dict[asyncio.Task[None], Connection | None] = {}
        self._turned_away = 0
        self._overruns = Flood(_LOGGED_PER_MINUTE)
        self._accepting: asyncio.Task[None] | None = None

    def start(self, listener: socket.socket) -> None:
        """Accepts on `listener`, a Unix stream socket that is bound. Call it in a running loop."""
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(listener), name="accept")

    async def close(self) -> None:
        """No new connections and requests; those that are being answered are, for FINISH_S seconds at the most."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        for task, connection in self._connections.items():
            if connection is not None and connection.busy:
                connection.finish()
            else:
                task.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=FINISH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        """One after the other: what may not stay is gone before the next one takes a descriptor."""
        with listener:
            while True:
                try:
                    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                except OSError as error:  # no descriptors left in the whole system
                    log.warning("keyd.accept_failed", error=error.strerror)
                    await asyncio.sleep(ACCEPT_AGAIN_S)
                    continue
                try:
                    self._admit(accepted)
                except Exception:  # whatever it was (a broken user database), the next one must be heard
                    log.exception("keyd.fault")
                    accepted.close()
                await asyncio.sleep(0)  # a flood of connections must not keep the loop from those it has

    def _admit(self, accepted: socket.socket) -> None:
        peer = peer_of(accepted)
        place = self._quotas.take(peer)
        if place is None:
            self._note_overrun(peer)
            if self._turned_away >= TURNED_AWAY_AT_ONCE:
                accepted.close()
                return
            self._turned_away += 1
        task = asyncio.create_task(self._serve(accepted, peer, place))
        self._connections[task] = None
        task.add_done_callback(lambda task: self._end(task, accepted, place))

    def _end(self, task: asyncio.Task[None], accepted: socket.socket, place: Place | None) -> None:
        accepted.close()
        del self._connections[task]
        if place is None:
            self._turned_away -= 1
        else:
            self._quotas.give_back(place)

    async def _serve(self, accepted: socket.socket, peer: Peer, place: Place | None) -> None:
        reader, writer = await _streams(accepted)
        connection = Connection(reader, writer, peer, self._answer)
        if place is None:
            words = f"{peer} has as many connections as it may have"
            await connection.turn_away(Refused(Reason.CONNECTIONS_EXCEEDED, words, 503))
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        await connection.serve()

    def _note_overrun(self, peer: Peer) -> None:
        if (suppressed := self._overruns.note(str(peer), self._clock())) is not None:
            log.warning("keyd.connections_exceeded", uid=peer.uid, pid=peer.pid, suppressed=suppressed)


async def _streams(accepted: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
