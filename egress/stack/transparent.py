"""One request and its answer as mitmproxy 12.2.3 passes them on, with its gaps closed:

- 1xx answers (103 Early Hints) are taken for the final one: they are handed on, as many as are bearable;
- an answer that is complete before its request is has no end: the application is told of it at once;
- an answer of egress's own, to a request whose body streams, is an error: it is sent, and nothing goes upstream;
- a wakeup that a stream asks for is an error to it: it is heard, and in a tunnel nobody else hears it;
- a refused destination is a 502 like any other: it is a 403 that says why.

Nothing here has to do with payments. Pinned to mitmproxy 12.2.3: `HttpStream` is private, and
tests/egress/stack/test_mitmproxy_shape.py watches its shape.
"""

from __future__ import annotations

from typing import Final

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import tcp
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpResponseHeadersHook

from egress.paying.exchange import EGRESS_HEADER, Exchange
from egress.reach import guard
from egress.stack.flow_control import PacedStream
from egress.stack.http1 import AnswerBrokenOff

MAX_INFORMATIONAL: Final = 1000
"""Interim answers to one request. 102 (Processing) may come every few seconds for an hour; each costs as much as a small
request, and a server could send them without end."""


class Deadline(commands.RequestWakeup):
    """A wakeup that knows which stream asked for it."""

    def __init__(self, stream: TransparentStream, seconds: float) -> None:
        super().__init__(seconds)
        self.stream = stream


class TransparentStream(PacedStream):
    """One request and its answer, passed on as they are."""

    _deadline: Deadline | None = None
    """The one that counts; earlier ones come back all the same."""
    _informational = 0
    _answer_ended = False
    """The application has been told that the answer is complete, while it was still sending."""

    @property
    def _exchange(self) -> Exchange:
        return Exchange.of(self.flow)

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Wakeup):
            if event.command is self._deadline:
                yield from self._on_deadline(event.command)
        elif isinstance(event, ResponseHeaders) and is_informational(event) and self._has_heard_enough():
            yield from self._give_up_on_hints(event.stream_id)
        elif not self._comes_too_late(event):
            yield from super()._handle_event(event)

    def _has_heard_enough(self) -> bool:
        self._informational += 1
        return self._informational > MAX_INFORMATIONAL

    def _give_up_on_hints(self, upstream_id: int) -> layer.CommandGenerator[None]:
        why = "the server sends interim answers (1xx) and no final one"
        if self.context.server.connected:
            cancelled = RequestProtocolError(upstream_id, why, ErrorCode.CANCEL)
            yield SendHttp(cancelled, self.context.server)
        fault = AnswerBrokenOff(upstream_id, why, ErrorCode.GENERIC_SERVER_ERROR)
        yield from self.handle_protocol_error(fault)

    def _comes_too_late(self, event: events.Event) -> bool:
        """What was read together with the head of an answer that was given up, a probe's for example."""
        rest = ResponseData | ResponseTrailers | ResponseEndOfMessage
        return self.server_state == self.state_done and isinstance(event, rest)

    # -- deadlines ------------------------------------------------------------------------------------------

    def _set_deadline(self, seconds: float) -> layer.CommandGenerator[None]:
        self._deadline = Deadline(self, seconds)
        yield self._deadline

    def _on_deadline(self, deadline: Deadline) -> layer.CommandGenerator[None]:
        """The last one that was set is over."""
        yield from ()

    def passthrough(self, event: events.Event) -> layer.CommandGenerator[None]:
        """A tunnel. Of wakeups it hands on those of the layers inside it, and not its own late deadline."""
        own = isinstance(event, events.Wakeup) and getattr(event.command, "stream", None) is self
        if not own:
            yield from super().passthrough(event)

    # -- the answer begins ----------------------------------------------------------------------------------

    def start_request_stream(self) -> layer.CommandGenerator[None]:
        """An addon has answered already: nothing goes upstream, however much of the body is still to come."""
        if self.flow.response is None:
            yield from super().start_request_stream()
            return
        self.client_state = self.state_done
        yield HttpResponseHeadersHook(self.flow)
        yield from self.send_response()

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        if is_informational(event):
            yield from self._forward_informational(event)
        else:
            yield from super().state_wait_for_response_headers(event)

    def _forward_informational(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        """A proxy must forward 1xx (RFC 9110 section 15.2), except to HTTP/1.0, which has none. The 100 that an
        application waits for was sent by mitmproxy already."""
        if event.response.status_code != 100 and self.flow.request.http_version != "HTTP/1.0":
            event.response.headers.pop(EGRESS_HEADER, None)
            yield SendHttp(ResponseHeaders(self.stream_id, event.response, False), self.context.client)

    def _refuse_destination(self, refusal: guard.Refusal) -> layer.CommandGenerator[None]:
        self._exchange.refusal = refusal.reason
        self.flow.response = refusal.response()
        yield HttpResponseHeadersHook(self.flow)
        self.client_state = self.state_done  # whatever follows of the request is not wanted
        yield from self.send_response()

    # -- the end --------------------------------------------------------------------------------------------

    def send_response(self, already_streamed: bool = False) -> layer.CommandGenerator[None]:
        yield from super().send_response(already_streamed)
        if self.server_state == self.state_done and self.client_state not in (
            self.state_done,
            self.state_errored,
        ):
            # The answer is complete before the request is. An application may wait for this end before it ends.
            self._answer_ended = True
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def flow_done(self) -> layer.CommandGenerator[None]:
        for command in super().flow_done():
            is_end = isinstance(command, SendHttp) and isinstance(command.event, ResponseEndOfMessage)
            if not (is_end and self._answer_ended):
                yield command
        if isinstance(self.child_layer, tcp.TCPLayer):
            self.child_layer.flow = None  # upgraded: a plain pipe, whose messages nobody looks at

    def state_done(self, _: events.Event) -> layer.CommandGenerator[None]:
        """What still comes of an answer that was given up has nobody to go to."""
        yield from ()


def is_informational(event: ResponseHeaders) -> bool:
    """Another answer follows it. 101 is final."""
    return 100 <= event.response.status_code < 200 and event.response.status_code != 101
