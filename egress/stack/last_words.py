"""What a server said before its connection failed: it is read before the failure counts.

A server that refuses an upload in the middle and resets the connection has mostly answered before. asyncio forgets
that answer in three places: a failed write closes the transport and what the kernel still holds; an error that was set
on a StreamReader hides what is in its buffer; and mitmproxy cancels whoever waits for the data. Here data wins.
"""

from __future__ import annotations

import asyncio
from typing import Final

SEND_FAILED: Final = "Error sending data"
"""How mitmproxy's cancellation of a handler begins, if a write to its connection failed."""
LIMIT: Final = 1024 * 1024
"""Bytes that are fetched from the kernel: more than it buffers by default, and more than any 402 that is held."""


class LastWordsReader:
    """A StreamReader's `read` that gives what there is before it raises."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.stream = reader

    async def read(self, size: int) -> bytes:
        try:
            return await self.stream.read(size)
        except OSError:
            if rest := self._rest():
                return rest
            raise
        except asyncio.CancelledError as cancelled:
            # Whoever cancels for another reason wants the end of the connection, not its data.
            because_of_a_write = str(cancelled).startswith(SEND_FAILED)
            if because_of_a_write and (rest := self._rest()):
                return rest
            raise

    def _rest(self) -> bytes:
        buffer: bytearray = self.stream._buffer  # type: ignore[attr-defined]
        rest = bytes(buffer)
        buffer.clear()
        return rest

    def fetch(self, transport: asyncio.BaseTransport) -> None:
        """Take from the kernel what a failed write keeps the transport from reading.

        To be called before the event loop goes on: then the socket is closed, and what it holds is gone.
        """
        if not transport.is_closing() or self.stream.at_eof():
            return
        sock = transport.get_extra_info("socket")
        fetched = 0
        while fetched < LIMIT:
            try:
                data = sock._sock.recv(65536)
            except OSError:  # nothing there, or nothing any more
                return
            if not data:
                return
            fetched += len(data)
            self.stream.feed_data(data)
