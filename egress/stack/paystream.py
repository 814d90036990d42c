"""The paid retry, inside mitmproxy's protocol stack.

An addon can only buffer the answer to a request that it repeats itself. Here the repeat happens where
mitmproxy forwards the request, so the paid answer streams to the application like any other, on the same
upstream connection where possible. One request runs through these states of `server_state`:

    wait_for_response_headers ─ not a 402, or not payable ─→ mitmproxy's own states: stream it
      └ 402 ─→ hold_402 ─ too large, too slow, broken off ─→ stream it, with the reason
                  └ complete ─→ [wait_for_upload: the application is still sending] ─→ decide
                        ├ PassOn ─→ the 402 as it came, with the reason
                        ├ Probe ─→ transmit ─→ probe ─→ decide once more, on the terms that it brought
                        ├ SignIn ─→ transmit ─→ wait_for_response_headers: another 402 is held in its turn
                        └ Pay ─→ transmit ─→ wait_for_response_headers, stream whatever comes

`decide` asks the addon (`PaymentRequiredHook`); `transmit` is `egress.stack.resend`; what has nothing to do with
payments is `egress.stack.transparent`. This module knows nothing of keyd or x402 fields.

Pinned to mitmproxy 12.2.3: `HttpStream` is private, tests/egress/stack/test_mitmproxy_shape.py watches its shape.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHeadersHook

from egress.paying.decisions import Advance, Asked, Challenge, PassOn, Pay, Probe, Repeat
from egress.reach import guard
from egress.stack.flow_control import QUEUE_LIMIT
from egress.stack.resend import ResendStream, is_multiplexed
from egress.stack.transparent import Deadline
from keyd.reasons import Reason

MAX_402_BODY: Final = 4 * 1024 * 1024
"""Bytes of a 402 that are held. The paywall page of an official server takes 2.3 MB, and its header has the terms."""
HOLD_LIMIT_S: Final = 10.0
"""How long a 402 may take to arrive completely. It is a few KB; a seller that drips it holds up an app."""
UPLOAD_LIMIT_S: Final = 30.0
"""How long the rest of an upload may take after its 402. An application that waits for an answer before it
goes on sending would otherwise wait for ever."""


@dataclass
class PaymentRequiredHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Asks the addon whether to pay. Blocking, and it must stay so even if the answer were known at once: only
    after it has the upstream connection finished its bookkeeping and can be used again."""

    challenge: Challenge


@dataclass
class PrepayHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Asks the addon for a payment before the server does."""

    advance: Advance


@dataclass
class AbortUpstreamHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Cuts the upstream connection at once. An orderly close would wait until the server has read the rest of
    an upload that it does not read."""

    blocking = False
    flow: http.HTTPFlow


class PayStream(ResendStream):
    """One request and its answer; a 402 may be paid once."""

    _held_body: bytearray
    """What has arrived of the answer that is being held."""
    _asked: Asked | None = None
    _probed: http.Response | None = None

    def __init__(self, context: Context, stream_id: int) -> None:
        super().__init__(context, stream_id)
        self._held_body = bytearray()

    # -- pay before the server asks -------------------------------------------------------------------------

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        """False if there is nothing left to send for the caller."""
        connected = yield from super().make_server_connection()
        complete = self.client_state == self.state_done  # not an upload that streams
        if not (connected and complete and self._exchange.may_prepay):
            return connected
        advance = Advance(self.flow, self._request_body())
        yield PrepayHook(advance)
        if advance.decision is not None:
            self._exchange.payment = advance.decision.payment
        if (yield from self.check_killed(True)):  # the application has gone: do not pay for nobody
            return False
        self._repeat = advance.decision
        lasted = self.context.server.connected
        if advance.decision is None:
            return lasted or (yield from super().make_server_connection())
        if lasted:  # it is the one that the decision is about
            yield from self._send_repeat(advance.decision)
        else:
            yield from self._transmit()
        return False

    # -- the answer begins ----------------------------------------------------------------------------------

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        if event.response.status_code == 402 and self._exchange.payable:
            yield from self._hold(event)
        else:
            yield from super().state_wait_for_response_headers(event)

    # -- hold the 402 ---------------------------------------------------------------------------------------

    def _hold(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        self.flow.response = event.response
        if (yield from self.check_invalid(False)):
            return
        self.server_state = self.state_hold_402
        # Most 402s are complete in one read, before this wakeup fires; only the others need a real timer.
        yield from self._set_deadline(0)

    def state_hold_402(self, event: events.Event) -> layer.CommandGenerator[None]:
        assert self.flow.response
        if isinstance(event, ResponseData):
            self._held_body += event.data
            if len(self._held_body) > MAX_402_BODY:
                yield from self._release(Reason.TERMS_TOO_LARGE)
            elif not self._exchange.share.take(len(event.data)):
                yield from self._release(Reason.EGRESS_FULL)
        elif isinstance(event, ResponseTrailers):
            self.flow.response.trailers = event.trailers
        elif isinstance(event, ResponseEndOfMessage):
            self.flow.response.data.content, self._held_body = bytes(self._held_body), bytearray()
            if self.client_state == self.state_done:
                yield from self._decide()
            else:
                yield from self._stop_upload()

    def _release(self, reason: str | None) -> layer.CommandGenerator[None]:
        """Stream the 402 after all: what was held of it, then the rest as it comes."""
        self._exchange.refusal = reason
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        yield from self.start_response_stream()
        held, self._held_body = bytes(self._held_body), bytearray()
        if held:
            yield from self._hand_over(held)

    def _on_deadline(self, deadline: Deadline) -> layer.CommandGenerator[None]:
        if self.server_state == self.state_hold_402:
            if deadline.delay == 0:
                yield from self._set_deadline(HOLD_LIMIT_S)
            else:
                yield from self._release(Reason.TERMS_TIMEOUT)
        elif self.server_state == self.state_probe:
            yield from self._end_probe()
        elif self.server_state == self.state_wait_for_upload:
            yield from self._pass_on(Reason.BODY_TOO_LARGE)

    # -- a 402 before the upload was complete ---------------------------------------------------------------

    def _stop_upload(self) -> layer.CommandGenerator[None]:
        """Send no more of a body that the server has refused, but take the rest of it: the paid request needs
        it whole."""
        self.server_state = self.state_wait_for_upload
        self.client_state = self.state_absorb_upload
        if not is_multiplexed(self.context.server):
            yield AbortUpstreamHook(self.flow)
        yield SendHttp(
            RequestProtocolError(self.stream_id, "402 before the end of the upload", ErrorCode.CANCEL),
            self.context.server,
        )
        yield from self._set_deadline(UPLOAD_LIMIT_S)

    def state_wait_for_upload(self, _: events.Event) -> layer.CommandGenerator[None]:
        yield from ()

    def state_absorb_upload(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, RequestData):
            body = self._exchange.body
            assert body is not None  # only streamed uploads can be overtaken by their answer
            body(event.data)
            if body.refusal and self.server_state == self.state_wait_for_upload:
                yield from self._pass_on(body.refusal)
        elif isinstance(event, RequestTrailers):
            self.flow.request.trailers = event.trailers
        elif isinstance(event, RequestEndOfMessage):
            self.flow.request.timestamp_end = time.time()
            yield HttpRequestHook(self.flow)
            self.client_state = self.state_done
            if self.server_state == self.state_wait_for_upload:
                yield from self._decide()
            elif self.server_state == self.state_done:
                yield from self.flow_done()

    # -- ask, then pay or pass on ---------------------------------------------------------------------------

    def _decide(self) -> layer.CommandGenerator[None]:
        self.server_state = self.state_deciding
        challenge = Challenge(self.flow, self._request_body(), self._asked, self._probed)
        yield PaymentRequiredHook(challenge)
        decision = challenge.decision
        if isinstance(decision, Pay):
            self._exchange.payment = decision.payment
        if (yield from self.check_killed(True)):  # the application has gone: do not pay for nobody
            return
        if challenge.upstream_blocked:
            yield commands.CloseConnection(self.context.server)
        if isinstance(decision, PassOn):
            yield from self._pass_on(decision.reason)
            return
        self._repeat = decision
        self._held, self.flow.response = self.flow.response, None
        probes = isinstance(decision, Probe)
        self.server_state = self.state_probe if probes else self.state_wait_for_response_headers
        yield from self._transmit()

    def state_deciding(self, _: events.Event) -> layer.CommandGenerator[None]:
        yield from ()

    def _pass_on(self, reason: str | None) -> layer.CommandGenerator[None]:
        assert self.flow.response
        self._exchange.refusal = reason
        self.server_state = self.state_deciding
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        body = self.flow.response.raw_content or b""
        if len(body) <= QUEUE_LIMIT:
            yield from self.send_response()
            return
        yield from self.start_response_stream()
        yield from self._hand_over(body)
        yield from self.state_stream_response_body(ResponseEndOfMessage(self.stream_id))

    def _hand_over(self, held: bytes) -> layer.CommandGenerator[None]:
        """Until the application has taken it, the exchange goes on, and keeps its share of the room."""
        yield from self.state_stream_response_body(ResponseData(self.stream_id, held))
        if len(held) > QUEUE_LIMIT:
            yield from self._until_taken()

    # -- the terms as JSON ----------------------------------------------------------------------------------

    def state_probe(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, ResponseHeaders):
            if event.response.status_code == 402:
                self._probed = event.response
            elif event.response.status_code >= 200 or event.response.status_code == 101:
                yield from self._end_probe()
        elif isinstance(event, ResponseData):
            self._held_body += event.data
            room = self._exchange.share.take(len(event.data))
            if not room or len(self._held_body) > MAX_402_BODY:
                yield from self._end_probe()
        elif isinstance(event, ResponseEndOfMessage):
            assert self._probed is not None
            self._probed.data.content, self._held_body = bytes(self._held_body), bytearray()
            self.flow.response, self._held = self._held, None
            yield from self._decide()

    def _end_probe(self) -> layer.CommandGenerator[None]:
        """It brought no terms: the application gets its own 402."""
        self._held_body = bytearray()
        self.flow.response, self._held = self._held, None
        yield from self._cancel_repeat("probe without terms")
        yield from self._pass_on(Reason.TERMS_MISSING)

    # -- send it once more ----------------------------------------------------------------------------------

    def _send_repeat(self, repeat: Repeat | None) -> layer.CommandGenerator[None]:
        if isinstance(repeat, Probe):
            yield from self._set_deadline(HOLD_LIMIT_S)
        yield from super()._send_repeat(repeat)

    def _not_transmitted(self, error: str) -> layer.CommandGenerator[None]:
        if self._held is None:  # it was sent before, so what happened to it is unknown
            yield from self.handle_protocol_error(
                ResponseProtocolError(self._upstream_id, error, ErrorCode.CONNECT_FAILED)
            )
            return
        self.flow.response, self._held = self._held, None
        probed = isinstance(self._repeat, Probe)
        yield from self._pass_on(Reason.TERMS_MISSING if probed else Reason.UPSTREAM_LOST)

    # -- errors ---------------------------------------------------------------------------------------------

    def handle_protocol_error(
        self, event: RequestProtocolError | ResponseProtocolError
    ) -> layer.CommandGenerator[None]:
        if self.client_state == self.server_state == self.state_done:
            return  # the end of a connection that was given up: this exchange is over, and the next one may have begun
        if isinstance(event, ResponseProtocolError):
            if self._concerns_the_held_402(event):
                return
            if self._awaits_an_answer() and (yield from self._send_again(event)):
                return
            if self.server_state == self.state_probe:
                yield from self._end_probe()
                return
            if self.server_state == self.state_hold_402:  # broken off: the application gets what there is
                yield from self._release(Reason.TERMS_MISSING)
            elif event.code is ErrorCode.CONNECT_FAILED and (refusal := guard.refusal_in(event.message)):
                yield from self._refuse_destination(refusal)
                return
            event.stream_id = self.stream_id
        else:
            self._exchange.hung_up = True
            event.stream_id = self._upstream_id
        yield from super().handle_protocol_error(event)
        yield from self._drop_alias()

    def _concerns_the_held_402(self, event: ResponseProtocolError) -> bool:
        """The connection or stream of the first attempt ended after its 402 was complete: no news."""
        if self.server_state in (self.state_wait_for_upload, self.state_deciding):
            return True
        return self._alias is not None and event.stream_id != self._alias

    def _awaits_an_answer(self) -> bool:
        probes = self.server_state == self.state_probe and self._probed is None
        return probes or self.server_state == self.state_wait_for_response_headers
