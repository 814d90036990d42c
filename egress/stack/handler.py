"""One application's connection and those to servers that belong to it: how it reads, writes and calls addons.

Six things are done otherwise than in mitmproxy 12.2.3:

- What was read waits only for the side that it goes to, so that one direction cannot hold up the other.
- What passes through a tunnel passes by all of this (`egress.stack.tunnel`).
- What one event makes it write to a connection leaves in one piece: a system call is a quarter of what a small
  answer costs.
- An addon's hook is called directly (`egress.stack.hooks`). Nor are the types of a message's members checked: that is for
  addons under development.
- What a server said before its connection failed is read before the failure counts (`egress.stack.last_words`).
- Whoever is cancelled while he waits to tell of an event tells of it all the same.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, mode_servers
from mitmproxy.utils import asyncio_utils

from egress.stack.flow_control import ReadingHook, TakenHook
from egress.stack.hooks import HookedLayer, Hooks
from egress.stack.last_words import LastWordsReader
from egress.stack.tunnel import End, TunnelHook

LINGER_S: Final = 60.0
"""How long the rest of what was sent may take after a connection was closed: a few hundred KB at most."""
OWN_LIMIT: Final = 1024 * 1024
"""Bytes that wait for an HTTP/2 peer which goes on sending and does not read the answers to its pings and settings."""

_source: contextvars.ContextVar[Connection | None] = contextvars.ContextVar("source", default=None)
"""The connection that the current task reads from."""


class CorkedWriter(asyncio.StreamWriter):
    """Collects what is written until `uncork`."""

    _pieces: list[bytes]

    @classmethod
    def take_over(cls, writer: asyncio.StreamWriter) -> None:
        """Make `writer` one of these. mitmproxy opens its connections itself, and names no class to replace."""
        writer.__class__ = cls
        assert isinstance(writer, cls)
        writer._pieces = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._pieces.append(bytes(data))

    def uncork(self) -> None:
        if pieces := self._pieces:
            self._pieces = []
            if not self.is_closing():
                super().write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def write_eof(self) -> None:
        self.uncork()
        super().write_eof()

    def close(self) -> None:
        """What waits is still sent, but not for ever: a peer that never reads would keep a socket that nobody counts."""
        self.uncork()
        super().close()
        if self.transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)


class Handler(mode_servers.ProxyConnectionHandler):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[no-untyped-call]
        self._halts: dict[Connection, asyncio.Event] = {}
        """Connections that are not to be read until the event is set."""
        self._ends: dict[Connection, End] = {}
        """Those of a tunnel, once it is open."""
        self._hooks = Hooks(self.master)

    # -- reading --------------------------------------------------------------------------------------------

    async def handle_connection(self, connection: Connection) -> None:
        _source.set(connection)
        io = self.transports[connection]
        if connection is not self.client and isinstance(io.reader, asyncio.StreamReader):
            io.reader = LastWordsReader(io.reader)  # type: ignore[assignment]
        await super().handle_connection(connection)

    async def drain_writers(self) -> None:
        """Called after each read: wait until what was read can be passed on."""
        source = _source.get()
        for connection, io in list(self.transports.items()):
            if not isinstance(io.writer, asyncio.StreamWriter):
                continue
            if isinstance(io.reader, LastWordsReader):
                io.reader.fetch(io.writer.transport)
            is_destination = (connection is self.client) is not (source is self.client)
            if is_destination or (connection is source and _is_flooding(connection, io.writer)):
                try:
                    await io.writer.drain()
                except OSError as error:
                    if io.handler is not None:
                        io.handler.cancel(f"Error sending data: {error}")
        if source is not None and (halt := self._halts.get(source)):
            await halt.wait()
        if source is not None and (end := self._ends.get(source)):
            await end.carry()

    # -- writing --------------------------------------------------------------------------------------------

    async def server_event(self, event: events.Event) -> None:
        for io in self.transports.values():
            if type(io.writer) is asyncio.StreamWriter:
                CorkedWriter.take_over(io.writer)
        await self._in_turn(event)
        self._uncork()

    async def _in_turn(self, event: events.Event) -> None:
        """An event waits while another one is dealt with. Whoever is cancelled meanwhile, because its connection is to be
        closed, must not take the event with it: nobody would learn of the end, and the socket would stay open."""
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await super().server_event(event)
                break
            except asyncio.CancelledError as error:  # it waited: what is dealt with is not interrupted
                cancelled = error
        if cancelled is not None and (task := asyncio.current_task()):
            # Once more, where mitmproxy expects it: while it reads, or waits for writers.
            task.cancel(*cancelled.args)

    def _uncork(self) -> None:
        for io in self.transports.values():
            if isinstance(io.writer, CorkedWriter):
                io.writer.uncork()

    # -- addons ---------------------------------------------------------------------------------------------

    async def handle_client(self) -> None:
        self.layer = HookedLayer(self.layer, self._begin)  # type: ignore[assignment]
        await super().handle_client()

    def _begin(self, hook: commands.StartHook) -> bool:
        """Whether all that this hook asks for is done."""
        if isinstance(hook, ReadingHook):
            self._halt(hook)
            return True
        if isinstance(hook, TakenHook):
            self._uncork()
            asyncio_utils.create_task(
                self._until_taken(hook), name="taken", keep_ref=True, client=self.client.peername
            )
            return False
        if isinstance(hook, TunnelHook):
            self._join(hook.client, hook.server)
            return True
        if (rest := self._hooks.call(hook)) is None:
            return True
        self._uncork()  # an addon that waits may look at what is still unsent
        asyncio_utils.create_task(
            self._finish(hook, rest), name=hook.name, keep_ref=True, client=self.client.peername
        )
        return False

    async def _finish(self, hook: commands.StartHook, rest: Awaitable[None]) -> None:
        with self.timeout_watchdog.disarm():
            await rest
        if hook.blocking:
            await self.server_event(events.HookCompleted(hook))

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """Those that connections announce themselves, not their layers."""
        if (rest := self._hooks.call(hook)) is not None:
            with self.timeout_watchdog.disarm():
                await rest

    async def _until_taken(self, hook: TakenHook) -> None:
        """Meanwhile the time runs after which a silent connection is closed."""
        io = self.transports.get(hook.client)
        if io is not None and isinstance(io.writer, asyncio.StreamWriter):
            with suppress(OSError):
                await io.writer.drain()
        await hook.window.wait()
        await self.server_event(events.HookCompleted(hook))

    def _join(self, client: Connection, server: Connection) -> None:
        if client not in self.transports:
            return  # it hung up while the server was being connected to
        ends = [
            End(self.transports[each], self.timeout_watchdog.register_activity) for each in (client, server)
        ]
        End.join(*ends)
        self._ends = dict(zip((client, server), ends, strict=True))

    def _halt(self, hook: ReadingHook) -> None:
        if not hook.go_on:
            self._halts.setdefault(hook.connection, asyncio.Event())
        elif halt := self._halts.pop(hook.connection, None):
            halt.set()


def _is_flooding(connection: Connection, writer: asyncio.StreamWriter) -> bool:
    """Only for HTTP/2. Elsewhere what waits for a peer came from the other side, and is no reason not to hear it."""
    return connection.alpn == b"h2" and writer.transport.get_write_buffer_size() > OWN_LIMIT


def install() -> None:
    """Make mitmproxy use `Handler`, in this process. Safe to repeat."""
    mode_servers.ProxyConnectionHandler = Handler  # type: ignore[misc]
    http.MessageData.__post_init__ = lambda _: None  # type: ignore[method-assign]
