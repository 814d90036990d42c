"""HTTP/2 as mitmproxy 12.2.3 speaks it, with one gap closed: 1xx answers (103 Early Hints) are swallowed there."""

from __future__ import annotations

import time

import h2.events
from mitmproxy import http
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http2 as stock
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import ResponseHeaders


class Http2Client(stock.Http2Client):
    """Towards servers."""

    def handle_h2_event(self, event: h2.events.Event) -> layer.CommandGenerator[bool]:
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
    """Make mitmproxy use this class, in this process. Safe to repeat."""
    http_layers.Http2Client = Http2Client  # type: ignore[attr-defined]
