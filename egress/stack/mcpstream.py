"""The paid retry for MCP, where a server asks for payment inside an answer with status 200.

A `PayStream` that also looks into the answers to MCP calls (`egress.wire.mcp`), and into no others:

    wait_for_response_headers ─ JSON ─→ hold_answer ─ too large, too slow, not terms ─→ pass it on
      │                                    └ terms ─→ decide, as after a 402
      └ events ─→ stream_response_body: each event passes at once, but the one with the terms
                     └ terms, end of the answer ─→ decide
                          ├ PassOn ─→ the event as it came, end
                          └ Pay ─→ transmit ─→ wait_for_paid_answer: its body goes on in the stream that the
                                                 application already reads; an error status brings back the event
"""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http._events import (
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)

from egress.paying.calls import kind_of
from egress.paying.decisions import Asked, PaidAnswerBegun
from egress.stack.paystream import HOLD_LIMIT_S, PayStream
from egress.stack.transparent import Deadline, is_informational
from egress.wire import mcp
from egress.wire.sse import Event, EventStream


@dataclass
class PaidAnswerHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Blocking: the addon says how the body is passed on."""

    begun: PaidAnswerBegun


class McpStream(PayStream):
    """One request and its answer; terms in the answer to an MCP call are treated like a 402."""

    _call: mcp.Call | None = None
    """The call of this request, while its answer is looked at."""
    _events: EventStream | None = None
    """Cuts the answer, if it is a stream of events."""
    _answered = False
    """The call has an answer in this stream of events."""
    _event: bytes = b""
    """The event with the terms, which the application has not got."""
    _begun: http.Response | None = None
    """The answer whose headers the application has, while another is awaited to go on in its body."""

    # -- the answer begins ----------------------------------------------------------------------------------

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        if self._begun is not None:
            if not is_informational(event):
                yield from self._go_on_with(event.response)
            return
        kind = self._carries(event.response)
        self._call = mcp.read_call(self._request_body()) if kind else None
        if self._call is None:
            yield from super().state_wait_for_response_headers(event)
        elif kind is mcp.Kind.JSON:
            self.flow.response = event.response
            if not (yield from self.check_invalid(False)):
                self.server_state = self.state_hold_answer
                yield from self._set_deadline(HOLD_LIMIT_S)
        else:
            self._events = EventStream(mcp.MAX_MESSAGE)
            yield from super().state_wait_for_response_headers(event)

    def _carries(self, response: http.Response) -> mcp.Kind | None:
        """How the answer would carry terms of MCP, if the request is one that could be paid."""
        request = self.flow.request
        possible = (
            response.status_code == 200
            and request.method == "POST"
            and self.client_state == self.state_done
            and self._exchange.payable
        )
        return kind_of(response.headers) if possible else None

    # -- a JSON answer --------------------------------------------------------------------------------------

    def state_hold_answer(self, event: events.Event) -> layer.CommandGenerator[None]:
        assert self.flow.response is not None
        assert self._call is not None
        if isinstance(event, ResponseData):
            self._held_body += event.data
            if len(self._held_body) > mcp.MAX_MESSAGE or not self._exchange.share.take(len(event.data)):
                yield from self._release(None)
        elif isinstance(event, ResponseTrailers):
            self.flow.response.trailers = event.trailers
        elif isinstance(event, ResponseEndOfMessage):
            body, self._held_body = bytes(self._held_body), bytearray()
            self.flow.response.data.content = body
            call, self._call = self._call, None  # the deadline keeps this stream in memory for a while
            terms = mcp.terms_in(body, call.id)
            if terms is None:
                yield from self._pass_on(None)
            else:
                self._asked = Asked(call, terms)
                yield from self._decide()

    # -- an answer of events --------------------------------------------------------------------------------

    def state_stream_response_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        if self._events is None or isinstance(event, ResponseTrailers):
            yield from super().state_stream_response_body(event)
        elif isinstance(event, ResponseData):
            for piece in self._events.feed(event.data):
                yield from self._look_at(piece)
        elif self._event:
            yield from self._decide()
        else:
            yield from self._forward(self._events.rest())
            yield from super().state_stream_response_body(event)

    def _look_at(self, piece: Event) -> layer.CommandGenerator[None]:
        """The event with the terms is kept back, all others pass at once. A call is answered once: who has its result,
        before its terms or after them, need not pay."""
        message, call = piece.message, self._call
        assert call is not None
        if message is None or not mcp.is_answer(message, call.id):
            yield from self._forward(piece.raw)
            return
        terms = None if self._answered else mcp.terms_in(message, call.id)
        self._answered = True
        if terms is not None:
            self._event, self._asked = piece.raw, Asked(call, terms)
            yield from self._set_deadline(HOLD_LIMIT_S)
            return
        yield from self._forward(piece.raw)
        if self._event:
            yield from self._give_back_the_event()

    def _forward(self, data: bytes) -> layer.CommandGenerator[None]:
        if data:
            yield from super().state_stream_response_body(ResponseData(self.stream_id, data))

    def _decide(self) -> layer.CommandGenerator[None]:
        if self._event:
            self._begun = self.flow.response
        yield from super()._decide()

    def _pass_on(self, reason: str | None) -> layer.CommandGenerator[None]:
        if self._begun is None:
            yield from super()._pass_on(reason)
            return
        self._exchange.refusal = reason
        yield from self._end_with_the_event()

    def _end_with_the_event(self) -> layer.CommandGenerator[None]:
        yield from self._give_back_the_event()
        yield from super().state_stream_response_body(ResponseEndOfMessage(self.stream_id))

    def _give_back_the_event(self) -> layer.CommandGenerator[None]:
        """From here on nobody looks into the answer."""
        assert self._events is not None
        if self._begun is not None:
            self.flow.response, self._begun = self._begun, None
        held, self._event, self._events = self._event + self._events.rest(), b"", None
        self.server_state = self.state_stream_response_body
        yield from self._forward(held)

    # -- the paid answer goes on where the first one stopped ------------------------------------------------

    def _go_on_with(self, answer: http.Response) -> layer.CommandGenerator[None]:
        self.flow.response, paid = self._begun, self._exchange.payment
        assert self.flow.response is not None
        assert paid is not None
        yield PaidAnswerHook(PaidAnswerBegun(self.flow, answer))
        if (
            paid.answer is None
        ):  # it failed before MCP had its turn: the application gets the answer to its own call
            yield from self._cancel_repeat("no answer of MCP")
            yield from self._end_with_the_event()
            return
        self.flow.response.stream = (
            paid.answer if paid.answer.kind is mcp.Kind.EVENTS else mcp.AsEvent(paid.answer)
        )
        self._begun, self._events, self._event = None, None, b""
        self.server_state = self.state_stream_response_body

    # -- errors and deadlines -------------------------------------------------------------------------------

    def _on_deadline(self, deadline: Deadline) -> layer.CommandGenerator[None]:
        if self.server_state == self.state_hold_answer:
            yield from self._release(None)
        elif self._event and self.server_state == self.state_stream_response_body:
            # The server keeps the stream open after its answer, and the call would wait for ever.
            yield from self._give_back_the_event()
        else:
            yield from super()._on_deadline(deadline)

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        broken_off = isinstance(event, ResponseProtocolError)
        if broken_off and self.server_state == self.state_hold_answer:
            yield from self._release(None)
        yield from super().handle_protocol_error(event)
