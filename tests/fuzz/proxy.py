"""egress's protocol layers and its addon without sockets, tasks or time: bytes in, bytes out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, cast

from mitmproxy import options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.test import taddons

from egress.callers.identity import Asker, Identity
from egress.paying.addon import X402Addon
from egress.paying.buyer import Buyer
from egress.paying.payer import Payer
from egress.paying.policy import PayablePolicy
from egress.paying.room import Room
from egress.stack import http1, http2
from egress.stack.layers import PayHttpLayer
from keyd import api
from tests.egress.support.keyd import reply_to

http1.install()
http2.install()

_PROXYSERVER: Final = Proxyserver()  # type: ignore[no-untyped-call]
_PAYMENT: Final = re.compile(rb"\r\n(?:payment-signature|x-payment): ([^\r]*)", re.IGNORECASE)
_OPTIONS: Final[options.Options] = taddons.context(_PROXYSERVER).options  # type: ignore[no-untyped-call]


class _Payer:
    """keyd signs whatever it is asked for."""

    def __init__(self) -> None:
        self.asked: list[api.SignRequest] = []

    async def sign(self, request: api.SignRequest) -> api.SignReply:
        self.asked.append(request)
        return reply_to(request, len(self.asked))

    def report(self, fingerprint: str, report: api.OutcomeReport) -> None:
        pass

    async def reported(self, fingerprint: str) -> None:
        pass


class _Identity:
    async def asker(self, _: object) -> Asker:
        return Asker(api.Caller(uid=1000), None)


class _Policy:
    def covers(self, _: api.Origin) -> bool:
        return True

    def may_sign_in(self, _: api.Origin) -> bool:
        return False

    def prepaid_after(self, _: api.Origin, method: str) -> int | None:
        return 1 if method == "GET" else None


class Exchange:
    """One application's connection, and the servers that it reaches."""

    def __init__(self, sent: bytes, *, client: bytes | None = None, server: bytes | None = None) -> None:
        """`sent`: all that the application sends. `client`, `server`: `b"h2"` for HTTP/2 on that side."""
        self._server_alpn = server
        self._payer = _Payer()
        payer, identity = cast(Payer, self._payer), cast(Identity, _Identity())
        buyer = Buyer(payer, identity, cast(PayablePolicy, _Policy()), flat_dialect=True)
        self._addon = X402Addon(buyer, payer, Room(1 << 24), enabled=True, max_request_body=1 << 20)
        self.client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0.0)
        self.client.state, self.client.alpn = ConnectionState.OPEN, client
        self.servers: list[Server] = []
        self.received = b""
        """By the application."""
        self.upstream = b""
        """By the servers."""
        self._layer = PayHttpLayer(context.Context(self.client, _OPTIONS), HTTPMode.regular)
        self._feed(events.Start())
        self._feed(events.DataReceived(self.client, sent))

    @property
    def signed(self) -> list[api.SignRequest]:
        return self._payer.asked

    @property
    def payments(self) -> list[bytes]:
        """What was sent upstream in the headers that carry a payment, as often as it was sent."""
        return _PAYMENT.findall(self.upstream)

    @property
    def paid(self) -> int:
        """Different payments that went upstream: one and the same may follow a connection that was lost."""
        return len(set(self.payments))

    def serve(self, first: bytes, then: bytes) -> None:
        """The servers answer with `first`, in two pieces, then with `then`, and close."""
        for answer in (first[:16], first[16:], then):
            if answer and self.servers and self.servers[-1].connected:
                self._feed(events.DataReceived(self.servers[-1], answer))
        for server in self.servers:
            if server.connected:
                server.state = ConnectionState.CLOSED
                self._feed(events.ConnectionClosed(server))

    def _feed(self, event: events.Event) -> None:
        waiting = deque([event])  # replies wait until the layers have returned, as in mitmproxy
        while waiting:
            for command in self._layer.handle_event(waiting.popleft()):
                if (reply := self._do(command)) is not None:
                    waiting.append(reply)

    def _do(self, command: commands.Command) -> events.CommandCompleted | None:
        if isinstance(command, commands.SendData):
            if command.connection is self.client:
                self.received += command.data
            else:
                self.upstream += command.data
        elif isinstance(command, commands.OpenConnection):
            command.connection.state = ConnectionState.OPEN
            command.connection.timestamp_start, command.connection.alpn = 0.0, self._server_alpn
            assert isinstance(command.connection, Server)
            self.servers.append(command.connection)
            return events.OpenConnectionCompleted(command, None)
        elif isinstance(command, commands.CloseConnection):
            command.connection.state = ConnectionState.CLOSED
        elif isinstance(command, commands.StartHook):
            if (handle := getattr(self._addon, command.name, None)) is not None:
                _finish(handle(*command.args()))
            if command.blocking:
                return events.HookCompleted(command)
        return None


def _finish(pending: Coroutine[Any, Any, None] | None) -> None:
    if pending is not None:
        try:
            pending.send(None)
        except StopIteration:
            return
        raise AssertionError("an addon waits for something that is not here")
