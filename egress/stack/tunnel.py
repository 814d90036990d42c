"""A tunnel's bytes go from socket to socket: nobody reads them, so nobody has to see them.

Through mitmproxy's layers, a megabyte takes sixteen events of 64 KiB, each copied from a buffer of asyncio's. Here it is
received into one buffer and sent from there. Connections begin, end and fail as before: mitmproxy opens them, reads
their first bytes, and is told of the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, cast

from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import tcp
from mitmproxy.proxy.server import ConnectionIO

from egress.stack.last_words import LastWordsReader

SIZE: Final = 256 * 1024
"""Bytes that are received at once. It is also the most that waits here for a peer that does not read, each way."""


@dataclass
class TunnelHook(commands.StartHook):  # type: ignore[no-untyped-call]
    """Tells the handler that all bytes between these two are to be passed on as they come."""

    blocking = False
    client: Connection
    server: Connection


class TunnelLayer(tcp.TCPLayer):
    """mitmproxy's tunnel; it says when it is open."""

    def start(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from super().start(event)
        if self._handle_event == self.relay_messages:
            yield TunnelHook(self.context.client, self.context.server)

    _handle_event = start


class End(asyncio.BufferedProtocol):
    """One of the two connections of a tunnel, in front of the streams that mitmproxy reads and writes it with.

    What the peer sends goes to those streams until `carry`, and to `other` from then on.
    """

    other: End
    _buffer: ClassVar[bytearray] = bytearray(SIZE)
    """Of all tunnels: what is received into it is sent before the event loop goes on."""

    def __init__(self, io: ConnectionIO, note_activity: Callable[[], None]) -> None:
        """`note_activity` is called for whatever passes."""
        assert isinstance(io.writer, asyncio.StreamWriter)
        self._io = io
        self._transport = cast(asyncio.Transport, io.writer.transport)
        self._streams = cast(asyncio.StreamReaderProtocol, self._transport.get_protocol())
        self._note_activity = note_activity
        self._carries = False
        # `resume_writing` is called once all is sent, however little was left over.
        self._transport.set_write_buffer_limits(high=0)
        self._transport.set_protocol(self)

    @classmethod
    def join(cls, one: End, another: End) -> None:
        one.other, another.other = another, one

    async def carry(self) -> None:
        """From now on. To be called by whoever reads the stream, between two reads: what he holds would come too late."""
        if self._carries:
            return
        reader = self._io.reader
        stream = reader.stream if isinstance(reader, LastWordsReader) else cast(asyncio.StreamReader, reader)
        if stream.exception() is None and (waiting := len(stream._buffer)):  # type: ignore[attr-defined]
            self._pass_on(await stream.read(waiting))  # does not wait, and lets the transport read again
        self._carries = True

    def _pass_on(self, data: bytes | memoryview) -> None:
        self._note_activity()
        destination = self.other._transport
        if destination.is_closing():
            return
        destination.write(data)
        if destination.get_write_buffer_size():
            End._buffer = bytearray(SIZE)  # what is left over lies in the one there was
            self._transport.pause_reading()
        if isinstance(reader := self.other._io.reader, LastWordsReader):
            reader.fetch(destination)

    # -- called by the transport -----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        received = memoryview(self._buffer)[:nbytes]
        if self._carries:
            self._pass_on(received)
        else:
            self._streams.data_received(bytes(received))

    def pause_writing(self) -> None:
        self._streams.pause_writing()

    def resume_writing(self) -> None:
        self._streams.resume_writing()
        if self.other._carries:
            self.other._transport.resume_reading()

    def eof_received(self) -> bool | None:
        return self._streams.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.connection_lost(exc)
        if self.other._carries:  # nobody takes what it sends, but its end is to be seen
            self.other._transport.resume_reading()
