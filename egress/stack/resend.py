"""Sends a request once more: with a payment, with a sign-in, as a question, or as it was if no server has taken it.

On the connection that brought the first answer if it lives, else on a new one to the same origin, and never to another.
Whether, why and in which shape is for the stream above (`egress.stack.paystream`).
"""

from __future__ import annotations

import time
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import DropStream, GetHttpConnection, SendHttp, is_h3_alpn
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseProtocolError,
)

from egress.paying.decisions import Pay, Probe, Repeat, repeated
from egress.paying.origin import connected_origin
from egress.stack.http1 import AnswerBrokenOff
from egress.stack.http2 import NotTaken
from egress.stack.transparent import TransparentStream

TRIES_ELSEWHERE: Final = 3
"""How often a request that a server has not taken is sent again: of several that are all about to end, one may be the
last, but a server that never takes any is not asked for ever."""


class ResendStream(TransparentStream):
    """One request, which may go out more than once."""

    _repeat: Repeat | None = None
    """How the request is sent for the last time so far; None: as it came."""
    _held: http.Response | None = None
    """The answer that the repeat answers, as long as the application may still get it."""
    _on_reused_connection = False
    """The repeat went out on a connection that the server may be closing."""
    _tries_elsewhere = 0
    _repeats = 0
    _alias: int | None = None
    """Stream id of the repeat on a multiplexed upstream connection, where ours belongs to the first request."""

    def _transmit(self) -> layer.CommandGenerator[None]:
        """Send the repeat: the first time, or the same bytes again after a connection that failed."""
        request = self.flow.request
        connection, error = yield GetHttpConnection(
            (request.host, request.port),
            request.scheme == "https",
            self.flow.server_conn.via,
            self.flow.server_conn.transport_protocol,
        )
        if (yield from self.check_killed(True)):
            return
        # A new connection is a new question of who is at the other end.
        signed_for = None if self._repeat is None else self._repeat.origin
        if error is None and signed_for and connected_origin(connection) != signed_for:
            error = "connected to another origin"
        if error is not None:
            yield from self._not_transmitted(error)
            return
        self._on_reused_connection = self._held is not None and connection is self.context.server
        self.context.server = self.flow.server_conn = connection
        yield from self._send_repeat(self._repeat)

    def _not_transmitted(self, error: str) -> layer.CommandGenerator[None]:
        """The repeat could not be sent, or not again."""
        raise NotImplementedError

    def _send_repeat(self, repeat: Repeat | None) -> layer.CommandGenerator[None]:
        server, request, body = self.context.server, self.flow.request, self._request_body()
        if repeat is not None:
            request, body = repeated(repeat, request, body)
        yield from self._take_alias()
        if not isinstance(repeat, Probe):
            self._held = None
        if isinstance(repeat, Pay):  # from here it counts as sent, whatever happens to the connection
            repeat.payment.sent_at = repeat.payment.sent_at or time.monotonic()
        stream_id, trailers = self._upstream_id, request.trailers
        yield SendHttp(RequestHeaders(stream_id, request, not (body or trailers)), server)
        if body:
            yield SendHttp(RequestData(stream_id, body), server)
        if trailers:
            yield SendHttp(RequestTrailers(stream_id, trailers), server)
        yield SendHttp(RequestEndOfMessage(stream_id), server)

    def _cancel_repeat(self, why: str) -> layer.CommandGenerator[None]:
        """The server need not go on answering."""
        if self.context.server.connected:
            cancelled = RequestProtocolError(self._upstream_id, why, ErrorCode.CANCEL)
            yield SendHttp(cancelled, self.context.server)

    def _request_body(self) -> bytes:
        body = self._exchange.body
        return body.content() if body is not None else self.flow.request.raw_content or b""

    # -- an attempt that came to nothing --------------------------------------------------------------------

    def _send_again(self, event: ResponseProtocolError) -> layer.CommandGenerator[bool]:
        """False if the server may have done something with the request. The same bytes go out once more: the nonce of
        a payment or a sign-in counts only once."""
        if not (self._was_not_taken(event) or self._lost_idle_connection(event)):
            return False
        self._tries_elsewhere += 1
        self._on_reused_connection = False
        yield from self._transmit()
        return True

    def _was_not_taken(self, event: ResponseProtocolError) -> bool:
        """And all of it is still here."""
        body = self._exchange.body
        complete = self.client_state == self.state_done and (body is None or body.refusal is None)
        return isinstance(event, NotTaken) and complete and self._tries_elsewhere < TRIES_ELSEWHERE

    def _lost_idle_connection(self, event: ResponseProtocolError) -> bool:
        """The keep-alive race: the server closed the connection that was about to be reused."""
        return (
            not isinstance(event, AnswerBrokenOff)
            and self._on_reused_connection
            and not self.context.server.connected
        )

    # -- by which number the server knows the stream --------------------------------------------------------

    def stream_id_at(self, connection: Connection) -> int:
        return self._upstream_id if connection is self.context.server else self.stream_id

    @property
    def _upstream_id(self) -> int:
        return self.stream_id if self._alias is None else self._alias

    def _take_alias(self) -> layer.CommandGenerator[None]:
        yield from self._drop_alias()
        if is_multiplexed(self.context.server):
            self._repeats += 1
            # Applications count to 2^31, so no stream has this id.
            self._alias = self.stream_id + (self._repeats << 32)
            self.http_layer.streams[self._alias] = self

    def _drop_alias(self) -> layer.CommandGenerator[None]:
        if self._alias is not None:
            yield DropStream(self._alias)
            self._alias = None

    def flow_done(self) -> layer.CommandGenerator[None]:
        yield from super().flow_done()
        yield from self._drop_alias()


def is_multiplexed(connection: Connection) -> bool:
    return connection.alpn == b"h2" or is_h3_alpn(connection.alpn)
