"""Whoever cannot send on stops reading: nothing piles up in egress, however slow one of the two ends is.

mitmproxy stops reading while sockets are full, but what waits inside its layers (for an HTTP/2 window, for a connection
that is being opened, for keyd) has no limit. Here a stream that cannot pass on what it has pauses its source: an HTTP/1
connection is not read, an HTTP/2 stream gets no more window, so that the other streams of its connection go on.

A connection tells its stream about `SendingPaused` and `SendingResumed`; the stream tells the connection on its
other side `PauseReading` and `ResumeReading`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, cast

from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestProtocolError,
    ResponseData,
    ResponseProtocolError,
)

QUEUE_LIMIT: Final = 256 * 1024
"""Bytes of one stream that wait inside egress before its source is paused: a few reads, so that short waits cost
no throughput."""


@dataclass
class Sending(HttpEvent):
    """From a connection, about what it has to send."""

    connection: Connection


class SendingPaused(Sending):
    """More of this stream waits here than should."""


class SendingResumed(Sending):
    """There is room again."""


class Reading(HttpEvent):
    """To a connection, about what it receives."""


class PauseReading(Reading):
    """Take no more of this stream from the peer."""


class ResumeReading(Reading):
    """Go on. Also sent when the stream ends."""


@dataclass
class ReadingHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Tells the handler of a connection whether to read from its socket."""

    blocking = False
    connection: Connection
    go_on: bool


@dataclass
class TakenHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Goes on when the application's socket has taken what was sent to it, and `window` is set."""

    client: Connection
    window: asyncio.Event


class PacedStream(HttpStream):
    """Pauses the source of what cannot be passed on: too much is queued here, or at the other end."""

    _window: asyncio.Event | None = None
    """Set while the application has a window for what waits; None as long as it always had."""
    _queued: int = 0
    """Bytes that arrived while this layer waits for something (a connection, an addon)."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._paused_for: dict[Connection, set[str]] = {}
        """Sources that are paused, each with the reasons."""

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, Sending):
            paused = isinstance(event, SendingPaused)
            if event.connection is self.context.client:
                self._note_window(paused)
            yield from (self._pause if paused else self._resume)(self._other_side(event.connection), "window")
            return
        if isinstance(event, RequestProtocolError):
            self._note_window(False)  # nobody waits for it any more
        yield from super().handle_event(event)
        if self._paused or self._queued or self._paused_for:
            yield from self._mind_the_queue(event)

    def _note_window(self, full: bool) -> None:
        if full:
            self._window = asyncio.Event()
        elif self._window is not None:
            self._window.set()

    def _until_taken(self) -> layer.CommandGenerator[None]:
        """Go on when of what was sent to the application no more than `QUEUE_LIMIT` waits, or the application has gone."""
        if self._window is None:
            self._window = asyncio.Event()
            self._window.set()
        yield TakenHook(self.context.client, self._window)

    def _mind_the_queue(self, event: events.Event) -> layer.CommandGenerator[None]:
        if self._paused and isinstance(event, RequestData | ResponseData):
            self._queued += len(event.data)
            if self._queued > QUEUE_LIMIT:
                client, server = self.context.client, self.context.server
                yield from self._pause(client if isinstance(event, RequestData) else server, "queue")
        elif self._queued and not self._paused:
            self._queued = 0
            for source in tuple(self._paused_for):
                yield from self._resume(source, "queue")
        if isinstance(event, RequestProtocolError | ResponseProtocolError) or self._has_ended():
            for source in tuple(self._paused_for):
                yield from self._resume(source, "queue", "window")

    def _has_ended(self) -> bool:
        ends = (self.state_done, self.state_errored)
        return self.client_state in ends and self.server_state in ends

    def _other_side(self, connection: Connection) -> Connection:
        return self.context.server if connection is self.context.client else self.context.client

    def _pause(self, source: Connection, reason: str) -> layer.CommandGenerator[None]:
        if source not in self.http_layer.connections:
            return  # nobody has sent anything: the answer is egress's own
        reasons = self._paused_for.setdefault(source, set())
        if not reasons:
            yield SendHttp(PauseReading(self.stream_id_at(source)), source)
        reasons.add(reason)

    def _resume(self, source: Connection, *reasons: str) -> layer.CommandGenerator[None]:
        left = self._paused_for.get(source)
        if left is None:
            return
        left.difference_update(reasons)
        if not left:
            del self._paused_for[source]
            yield SendHttp(ResumeReading(self.stream_id_at(source)), source)

    def stream_id_at(self, connection: Connection) -> int:
        """By which number `connection` knows this stream."""
        return self.stream_id

    @property
    def http_layer(self) -> HttpLayer:
        return cast(HttpLayer, self.context.layers[self.context.layers.index(self) - 1])
