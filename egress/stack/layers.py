"""Which protocol layer handles a connection: our HTTP layer, or an untouched tunnel.

mitmproxy names its HttpLayer and HttpStream directly, so the HttpLayer that it made is turned into ours before
it has handled anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from mitmproxy import tcp
from mitmproxy.addons import next_layer
from mitmproxy.connection import Client
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.tcp import TCPLayer

from egress.reach.destinations import origin_of
from egress.stack.mcpstream import McpStream
from egress.stack.tunnel import TunnelLayer
from keyd.api import Origin


class PayHttpLayer(HttpLayer):
    """An HttpLayer whose requests can be paid for."""

    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        stream = McpStream(self.context.fork(), stream_id)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())


class PayNextLayer(next_layer.NextLayer):
    """mitmproxy's choice of layers, restricted to where `intercept` says that payments are possible."""

    name = "nextlayer"  # by which the rest of mitmproxy finds this addon

    def __init__(self, intercept: Callable[[Origin], bool]) -> None:
        self._intercept = intercept
        self.tunnels: set[str] = set()
        """Ids of the application connections whose bytes pass through unread."""

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        super().next_layer(nextlayer)
        chosen: layer.Layer | None = nextlayer.layer
        if isinstance(chosen, TCPLayer) and chosen.flow is None:
            chosen.__class__ = TunnelLayer
        while chosen is not None:
            if type(chosen) is HttpLayer:
                chosen.__class__ = PayHttpLayer
            chosen = getattr(chosen, "child_layer", None)

    def _ignore_connection(self, context: Context, data_client: bytes, data_server: bytes) -> bool:
        """Whether the connection inside a CONNECT is to be tunnelled untouched (mitmproxy's ignore_hosts)."""
        if context.server.address is None or context.client.tls_established:
            return False  # the connection to egress itself, or the inside of one that is intercepted
        tunnel = self._is_tunnel(context, data_client, data_server)
        if tunnel:
            self.tunnels.add(context.client.id)
        return tunnel

    def _is_tunnel(self, context: Context, data_client: bytes, data_server: bytes) -> bool:
        secure, plain = self._may_intercept("https", context), self._may_intercept("http", context)
        if not (secure or plain) or data_server:  # a server that speaks first speaks neither TLS nor HTTP
            return True
        if len(data_client) < 3:
            raise next_layer.NeedsMoreData
        return not (secure if starts_like_tls_record(data_client) else plain)

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """An upgraded connection, a WebSocket for example."""
        self.tunnels.add(flow.client_conn.id)

    def client_disconnected(self, client: Client) -> None:
        self.tunnels.discard(client.id)

    def _may_intercept(self, scheme: Literal["http", "https"], context: Context) -> bool:
        assert context.server.address is not None
        origin = origin_of(scheme, context.server.address[0], context.server.address[1])
        return origin is not None and self._intercept(origin)
