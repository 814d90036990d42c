"""One application's connection and those to servers that belong to it: how it reads, writes and calls addons.

Four things are done otherwise than in mitmproxy 12.2.3:

- What was read waits only for the side that it goes to, so that one direction cannot hold up the other.
- What one event makes it write to a connection leaves in one piece: a system call is a quarter of what a small
  answer costs.
- An addon's hook is called directly. mitmproxy looks through all addons each time, and once more for the screen of
  mitmproxy, which is another quarter. Nor are the types of a message's members checked: that is for addons under
  development.
- What a server said before its connection failed is read before the failure counts (`egress.last_words`).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, mode_servers
from mitmproxy.proxy.server_hooks import ServerConnectHook

from egress.flow_control import ReadingHook
from egress.last_words import LastWordsReader

OWN_LIMIT: Final = 1024 * 1024
"""Bytes that wait for an HTTP/2 peer which goes on sending and does not read the answers to its pings and settings."""

_source: contextvars.ContextVar[Connection | None] = contextvars.ContextVar("source", default=None)
"""The connection that the current task reads from."""
_log = logging.getLogger("mitmproxy.addons")


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
        self.uncork()
        super().close()


class Handler(mode_servers.ProxyConnectionHandler):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[no-untyped-call]
        self._halts: dict[Connection, asyncio.Event] = {}
        """Connections that are not to be read until the event is set."""
        self._hooks: dict[str, tuple[Callable[[Any], Any], ...]] = {}
        """By name: what the addons do, in their order."""
        self._known_addons = 0

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

    # -- writing --------------------------------------------------------------------------------------------

    async def server_event(self, event: events.Event) -> None:
        for io in self.transports.values():
            if type(io.writer) is asyncio.StreamWriter:
                CorkedWriter.take_over(io.writer)
        await super().server_event(event)
        self._uncork()

    def _uncork(self) -> None:
        for io in self.transports.values():
            if isinstance(io.writer, CorkedWriter):
                io.writer.uncork()

    # -- addons ---------------------------------------------------------------------------------------------

    async def handle_hook(self, hook: commands.StartHook) -> None:
        self._uncork()  # an addon may look at what is still unsent
        if isinstance(hook, ReadingHook):
            self._halt(hook)
            return
        with self.timeout_watchdog.disarm():
            (data,) = hook.args()
            for function in self._functions(hook.name):
                try:
                    pending = function(data)
                    if pending is not None and inspect.isawaitable(pending):
                        await pending
                except Exception as error:  # noqa: BLE001 the fault of one addon must not stop the others
                    _log.exception("Addon error: %s", error)
                    if isinstance(hook, ServerConnectHook):
                        hook.data.server.error = (
                            "an addon has failed"  # it might have refused the destination
                        )

    def _functions(self, name: str) -> tuple[Callable[[Any], Any], ...]:
        addons = self.master.addons.chain
        if len(addons) != self._known_addons:
            self._known_addons, self._hooks = len(addons), {}
        if (functions := self._hooks.get(name)) is None:
            named = (getattr(addon, name, None) for addon in addons)
            functions = self._hooks[name] = tuple(function for function in named if callable(function))
        return functions

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
