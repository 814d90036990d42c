"""HTTP/2 as mitmproxy 12.2.3 speaks it, with its gaps closed:

- 1xx answers (103 Early Hints) are swallowed: they are handed on;
- every byte is acknowledged at once, and what the other side has no window for is kept without limit: a stream that
  cannot be passed on gets no more window;
- a server that announces its end (GOAWAY) is left at once, with the answers it owes: they are awaited, because one of
  them may be paid for, and its payment is good only once;
- that a server has done nothing with a request, so that it may be sent again, is not told: `NotTaken` does;
- a request that was cancelled while it waited for its turn is sent all the same: it is not.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import h2.config
import h2.connection
import h2.errors
import h2.events
from hyperframe.frame import Frame, GoAwayFrame
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http2 as stock
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection, SendH2Data

from egress.stack.flow_control import QUEUE_LIMIT, PauseReading, ResumeReading, SendingPaused, SendingResumed

STREAM_WINDOW: Final = 2 * 1024 * 1024
"""Bytes of one stream that a peer may send before they are acknowledged: 20 MB/s at 100 ms of round trip. This much
of a stream can come to lie in egress when its reader stops."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
"""The same for all streams of a connection together. As many as fit into it can stand still before they hold up
the others."""


@dataclass
class GoingAway(h2.events.Event):
    """The server takes no further requests, and will answer those up to `last_stream_id` (RFC 9113 section 6.8)."""

    last_stream_id: int


class NotTaken(ResponseProtocolError):
    """The server has said that it did nothing with the request (RFC 9113 sections 6.8, 8.7): it may be sent again."""

    def __init__(self, stream_id: int) -> None:
        super().__init__(stream_id, "the server has not taken the request", ErrorCode.GENERIC_SERVER_ERROR)


class PacedH2Connection(BufferedH2Connection):
    """Acknowledges data of paused streams only once they go on. Outlives the GOAWAY of a server that only says good-bye."""

    def __init__(self, config: h2.config.H2Configuration) -> None:
        super().__init__(config)
        self.local_settings.initial_window_size = STREAM_WINDOW
        self.local_settings.acknowledge()
        self._unacknowledged: dict[int, int] = {}
        """Paused streams, and the bytes received on each since."""

    def initiate_connection(self) -> None:
        h2.connection.H2Connection.initiate_connection(self)
        self.increment_flow_control_window(CONNECTION_WINDOW - self.inbound_flow_control_window)

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        if stream_id in self._unacknowledged:
            self._unacknowledged[stream_id] += acknowledged_size
        else:
            super().acknowledge_received_data(acknowledged_size, stream_id)

    def pause(self, stream_id: int) -> None:
        self._unacknowledged.setdefault(stream_id, 0)

    def resume(self, stream_id: int) -> None:
        """Safe for streams that are not paused, or closed: then the bytes come back to the connection alone."""
        if size := self._unacknowledged.pop(stream_id, 0):
            super().acknowledge_received_data(size, stream_id)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        if frame.error_code != h2.errors.ErrorCodes.NO_ERROR or not self.config.client_side:
            return super()._receive_goaway_frame(frame)
        return [], [GoingAway(frame.last_stream_id)]  # stock h2 reads nothing more on this connection

    def backlog(self, stream_id: int) -> int:
        """Bytes that wait for the peer's window."""
        return sum(len(piece.data) for piece in self.stream_buffers.get(stream_id, ()))

    def send_data(self, stream_id: int, data: Any, end_stream: bool = False, pad_length: None = None) -> None:
        """As stock, but small pieces that wait are joined: each costs ten times its one byte."""
        waiting = self.stream_buffers.get(stream_id)
        if waiting and len(waiting[-1].data) + len(data) <= self.max_outbound_frame_size:
            _join(waiting, data, end_stream)
        else:
            super().send_data(stream_id, data, end_stream, pad_length)


def _join(waiting: deque[SendH2Data], data: bytes, end_stream: bool) -> None:
    last = waiting.pop().data
    joined = last if isinstance(last, bytearray) else bytearray(last)
    joined += data
    waiting.append(SendH2Data(joined, end_stream))  # type: ignore[arg-type]


class _PacedConnection(stock.Http2Connection):
    """What is the same towards servers and applications: pausing and being paused, stream by stream."""

    h2_conn: PacedH2Connection

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._overfull: set[int] = set()
        """Streams of which more waits here than should; their stream layers know."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, PauseReading):
            if (own := self._own_id(event.stream_id)) is not None:
                self.h2_conn.pause(own)
            return
        if isinstance(event, ResumeReading):
            if (own := self._own_id(event.stream_id)) is not None:
                self.h2_conn.resume(own)
                yield from self._flush()
            return
        stream_id = event.stream_id if isinstance(event, HttpEvent) else 0  # stock overwrites it
        yield from super()._handle_event(event)
        if isinstance(event, RequestData | ResponseData):
            if stream_id not in self._overfull and self._backlog(stream_id) > QUEUE_LIMIT:
                self._overfull.add(stream_id)
                yield ReceiveHttp(SendingPaused(stream_id, self.conn))
        elif self._overfull:
            broken_off = isinstance(event, RequestProtocolError | ResponseProtocolError)
            yield from self._resume({stream_id} if broken_off else set())

    def _resume(self, ended: set[int]) -> layer.CommandGenerator[None]:
        """Let go on whoever has room again, or has nothing more to send here: of an upload that was broken off, the rest
        is still wanted."""
        for stream_id in tuple(self._overfull):
            if stream_id in ended or self._backlog(stream_id) <= QUEUE_LIMIT // 2:
                self._overfull.discard(stream_id)
                yield ReceiveHttp(SendingResumed(stream_id, self.conn))

    def _flush(self) -> layer.CommandGenerator[None]:
        if data := self.h2_conn.data_to_send():
            yield commands.SendData(self.conn, data)

    def _own_id(self, stream_id: int) -> int | None:
        """The number that the peer knows the stream by; None: it has not begun yet."""
        return stream_id

    def _backlog(self, stream_id: int) -> int:
        own = self._own_id(stream_id)
        return 0 if own is None else self.h2_conn.backlog(own)


class Http2Server(_PacedConnection, stock.Http2Server):
    """Towards applications."""


class Http2Client(_PacedConnection, stock.Http2Client):
    """Towards servers."""

    _going_away = False
    """No further request may be sent here; the connection ends with the last answer."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, RequestProtocolError) and event.stream_id in self.stream_queue:
            del self.stream_queue[event.stream_id]
            self._overfull.discard(event.stream_id)
            return  # nothing of it was sent, and nobody waits for it any more
        yield from super()._handle_event(event)
        if self._going_away:
            yield from self._leave()

    def _leave(self) -> layer.CommandGenerator[None]:
        queued = tuple(self.stream_queue)
        self.stream_queue.clear()
        for stream_id in queued:
            yield ReceiveHttp(NotTaken(stream_id))
        if not self.h2_conn.open_outbound_streams:
            yield commands.CloseConnection(self.conn)
            self.streams.clear()
            self._handle_event = self.done  # type: ignore[method-assign]

    def _go_away(self, last_stream_id: int) -> layer.CommandGenerator[None]:
        self._going_away = True
        self.conn.state &= (
            ~ConnectionState.CAN_WRITE
        )  # so that HttpLayer opens another one for what comes next
        self.provisional_max_concurrency = -1  # what is queued must not be begun here
        for own in [own for own in self.streams if own > last_stream_id]:
            del self.streams[own]
            self.h2_conn.reset_stream(own, h2.errors.ErrorCodes.CANCEL)
            yield ReceiveHttp(NotTaken(own))

    def _is_refusal(self, event: h2.events.Event) -> TypeGuard[h2.events.StreamReset]:
        """Of a request without an answer."""
        return (
            isinstance(event, h2.events.StreamReset)
            and event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
            and self.streams.get(event.stream_id) is stock.StreamState.EXPECTING_HEADERS
        )

    def _own_id(self, stream_id: int) -> int | None:
        return self.our_stream_id.get(stream_id)

    def _backlog(self, stream_id: int) -> int:
        """Also what waits for its turn because the server allows no more streams."""
        queued = self.stream_queue.get(stream_id, ())
        waiting = sum(len(event.data) for event in queued if isinstance(event, RequestData))
        return waiting + super()._backlog(stream_id)

    def handle_h2_event(self, event: h2.events.Event) -> layer.CommandGenerator[bool]:
        if isinstance(event, GoingAway):
            yield from self._go_away(event.last_stream_id)
            return False
        if self._is_refusal(event):
            del self.streams[event.stream_id]
            yield ReceiveHttp(NotTaken(event.stream_id))
            return False
        if not isinstance(event, h2.events.InformationalResponseReceived):
            return (yield from super().handle_h2_event(event))
        try:
            status, headers = stock.parse_h2_response_headers(event.headers)
        except ValueError:
            return False  # a malformed hint is no reason to lose the answer that follows
        hint = http.Response(
            http_version=b"HTTP/2.0",
            status_code=status,
            reason=b"",
            headers=headers,
            content=None,
            trailers=None,
            timestamp_start=time.time(),
            timestamp_end=None,
        )
        yield ReceiveHttp(ResponseHeaders(event.stream_id, hint, False))
        return False


def install() -> None:
    """Make mitmproxy use these classes, in this process. Safe to repeat."""
    stock.BufferedH2Connection = PacedH2Connection  # type: ignore[attr-defined]
    http_layers.Http2Client = Http2Client  # type: ignore[attr-defined,assignment]
    http_layers.Http2Server = Http2Server  # type: ignore[attr-defined,assignment]
