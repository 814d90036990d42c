"""HTTP/1 as mitmproxy 12.2.3 speaks it, with its gaps closed, so that traffic passes through untouched:

- 1xx answers (103 Early Hints) hang the request: they are handed on, and the final answer is awaited;
- trailers of a chunked body crash the connection, in both directions: they are handed on;
- the head of a message may grow without limit, and so may the line before a chunk and what follows the last one: they
  are bounded;
- thousands of tiny chunks are handled one by one: they are joined;
- who has sent a 1xx answer cannot send a 502 any more: he can;
- a lost connection does not tell whether any of the answer had arrived: `AnswerBrokenOff` does;
- a WebSocket that is asked for as `GET ws://…`, not through CONNECT, is refused: it is the http request that it is;
- what an application sends ahead of the answer that it waits for is kept without limit: it is left in the socket;
- a CR, LF or NUL inside a field's value passes, and the next reader may see another field begin there: a blank takes
  its place;
- an HTTP/2 request whose length is not stated is sent without an end: it is chunked.

`install` puts these classes in the place of mitmproxy's own, which HttpLayer names directly.
"""

from __future__ import annotations

import re
from typing import Final

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http1 as stock
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)

from egress.reach import upstream
from egress.stack.flow_control import QUEUE_LIMIT, PauseReading, Reading, ReadingHook

MAX_HEAD: Final = 512 * 1024
"""Bytes of a message's start line and headers. PAYMENT-REQUIRED may take 128 KiB of it; ordinary heads are
below 16 KiB, and an endless one must not fill the memory."""

CHUNKS_AS_THEY_ARE: Final = 64
"""Of those that come in one read (64 KiB). Each costs about as much as a read; a server could send thousands."""

_INTERIM: Final = frozenset(range(100, 200)) - {101}
_TRAILERS: Final = (RequestTrailers, ResponseTrailers)
_ENDS: Final = (RequestEndOfMessage, ResponseEndOfMessage)
_BREAKS: Final = re.compile(rb"[\r\n\0]+[ \t]*")
_WEBSOCKET_TARGET: Final = re.compile(rb"(GET )ws://", re.IGNORECASE)


class AnswerBrokenOff(ResponseProtocolError):
    """The server closed the connection after it had sent a part of its answer."""


class _TrailerReader(ChunkedReader):
    """h11's reader of chunked bodies; it puts the trailers aside, where mitmproxy expects there to be none."""

    trailers: http.Headers | None = None

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        event = super().__call__(buf)
        if isinstance(event, h11.EndOfMessage) and event.headers:
            self.trailers = http.Headers(event.headers.raw_items())
            return h11.EndOfMessage()
        return event


class _Http1Connection(stock.Http1Connection):
    """What is the same towards clients and servers."""

    ReceiveTrailers: type[RequestTrailers | ResponseTrailers]
    trailers_to_send: http.Headers | None = None
    _paused_by_stream = False
    _reads = True

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, Reading):
            self._paused_by_stream = isinstance(event, PauseReading)
        else:
            yield from super()._handle_event(event)
        ahead = self.state == self.wait and len(self.buf) > QUEUE_LIMIT
        if self._reads is (self._paused_by_stream or ahead):
            self._reads = not self._reads
            # Of who sends that far ahead the end is not seen either: it comes behind data for which there is no room. It
            # costs him the request that is under way, as if he had hung up a moment later.
            yield ReadingHook(self.conn, self._reads)

    def read_body(self, event: events.Event) -> layer.CommandGenerator[None]:
        if type(self.body_reader) is ChunkedReader:
            self.body_reader = _TrailerReader()
        reader = self.body_reader
        for command in _fewer(super().read_body(event)):
            ends = isinstance(command, ReceiveHttp) and isinstance(command.event, self.ReceiveEndOfMessage)
            if ends and isinstance(reader, _TrailerReader) and reader.trailers:
                assert self.stream_id is not None
                yield ReceiveHttp(self.ReceiveTrailers(self.stream_id, reader.trailers))
            yield command
        if self.state == self.read_body and len(self.buf) > MAX_HEAD:
            yield from self._give_up_the_body()

    def _give_up_the_body(self) -> layer.CommandGenerator[None]:
        """What lies here is no content, which is passed on at once: a line without an end, or what nobody asked for."""
        self.buf = ReceiveBuffer()
        yield commands.CloseConnection(self.conn)
        assert self.stream_id is not None
        fault = self.ReceiveProtocolError(
            self.stream_id, "too much between chunks", self.ReceiveProtocolError.code
        )
        yield ReceiveHttp(fault)

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, _TRAILERS):
            self.trailers_to_send = event.trailers
            return
        trailers, last_chunk = None, b"0\r\n\r\n"
        if isinstance(event, _ENDS):
            trailers, self.trailers_to_send = self.trailers_to_send, None
        for command in super().send(event):
            if trailers and isinstance(command, commands.SendData) and command.data == last_chunk:
                command.data = b"0\r\n" + bytes(trailers) + b"\r\n"
            yield command


class Http1Client(_Http1Connection, stock.Http1Client):
    """Towards servers."""

    ReceiveTrailers = ResponseTrailers
    _answer_begun = False

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, RequestHeaders):
            request = upstream.for_proxy(_framed(event), self.conn)
            event = RequestHeaders(event.stream_id, request, event.end_stream)
        yield from super().send(event)

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and self.request:
            yield from self._receive_informational()
            if len(self.buf) > MAX_HEAD and self.stream_id is not None:
                yield commands.CloseConnection(self.conn)
                yield ReceiveHttp(
                    AnswerBrokenOff(self.stream_id, "answer head too large", ErrorCode.GENERIC_SERVER_ERROR)
                )
                self.buf = ReceiveBuffer()
                return
            if not self.buf:
                return
        begun = self._answer_begun or bool(self.buf)
        for command in super().read_headers(event):
            if isinstance(command, ReceiveHttp):
                if begun:
                    command.event = _broken_off(command.event)
                if isinstance(command.event, ResponseHeaders):
                    _on_one_line(command.event.response)
            yield command
        if self.state != self.read_headers or self.stream_id is None:
            self._answer_begun = False

    def _receive_informational(self) -> layer.CommandGenerator[None]:
        while _is_informational(self.buf):
            lines = self.buf.maybe_extract_lines()
            if lines is None:
                return
            self._answer_begun = True
            try:
                response = http1.read_response_head([bytes(line) for line in lines])
            except ValueError:
                continue  # a malformed hint is no reason to lose the answer that follows
            assert self.stream_id is not None
            _on_one_line(response)
            yield ReceiveHttp(ResponseHeaders(self.stream_id, response, False))


class Http1Server(_Http1Connection, stock.Http1Server):
    """Towards applications."""

    ReceiveTrailers = RequestTrailers

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        yield from super().send(event)
        if isinstance(event, ResponseHeaders) and event.response.status_code in _INTERIM:
            self.response = None  # the answer has not begun: should none come, there is room for a 502

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        if match := _WEBSOCKET_TARGET.match(bytes(self.buf)[:40]):
            rest = bytes(self.buf)[match.end() :]
            self.buf = ReceiveBuffer()
            self.buf += match[1] + b"http://" + rest
        for command in super().read_headers(event):
            if isinstance(command, ReceiveHttp) and isinstance(command.event, RequestHeaders):
                _on_one_line(command.event.request)
            yield command
        if self.state == self.read_headers and len(self.buf) > MAX_HEAD:
            yield commands.SendData(self.conn, stock.make_error_response(431, "request head too large"))
            yield commands.CloseConnection(self.conn)
            self.state = self.done


def _on_one_line(message: http.Request | http.Response) -> None:
    """RFC 9110 section 5.5, RFC 9112 section 5.2. Python's own client, for one, begins a new field at a lone CR: a server
    could write X-402-Egress there."""
    fields = message.headers.fields
    if any(_BREAKS.search(value) for _, value in fields):
        message.headers.fields = tuple((name, _BREAKS.sub(b" ", value)) for name, value in fields)
    if isinstance(message, http.Response):
        message.data.reason = _BREAKS.sub(b" ", message.data.reason)


def _framed(event: RequestHeaders) -> http.Request:
    """What follows a request without a length would be read as the next one."""
    request = event.request
    if event.end_stream or not (request.is_http2 or request.is_http3) or "content-length" in request.headers:
        return request
    chunked = request.copy()
    chunked.headers["transfer-encoding"] = "chunked"
    return chunked


def _fewer(received: layer.CommandGenerator[None]) -> layer.CommandGenerator[None]:
    """Of one read, the first chunks pass as they are; of what follows, those that touch are joined."""
    passed, rest = 0, bytearray()
    kind: type[RequestData | ResponseData] = ResponseData
    stream_id = 0
    for command in received:
        if isinstance(command, ReceiveHttp) and isinstance(command.event, RequestData | ResponseData):
            passed += 1
            if passed > CHUNKS_AS_THEY_ARE:
                kind, stream_id = type(command.event), command.event.stream_id
                rest += command.event.data
                continue
        elif rest:
            yield ReceiveHttp(kind(stream_id, bytes(rest)))
            rest.clear()
        yield command
    if rest:
        yield ReceiveHttp(kind(stream_id, bytes(rest)))


def _is_informational(buffer: ReceiveBuffer) -> bool:
    """Whether a 1xx answer begins here, with its start line read as liberally as mitmproxy reads it. 101 is final."""
    end = buffer._data.find(b"\n")
    line = buffer._data[: max(end, 0)]
    try:
        status = int(line.split(None, 2)[1])
    except (IndexError, ValueError):
        return False
    return status in _INTERIM


def _broken_off(event: HttpEvent) -> HttpEvent:
    if type(event) is ResponseProtocolError:
        return AnswerBrokenOff(event.stream_id, event.message, event.code)
    return event


def install() -> None:
    """Make mitmproxy use these classes, in this process. Safe to repeat."""
    http_layers.Http1Client = Http1Client  # type: ignore[attr-defined]
    http_layers.Http1Server = Http1Server  # type: ignore[attr-defined]
