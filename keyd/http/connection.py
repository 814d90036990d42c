"""One connection: requests of one peer, one after the other, each bounded in size and time.

h11 reads and writes HTTP/1.1 (RFC 9112) and refuses what is ambiguous; this module moves the bytes and holds the
limits. What is refused here was not looked at by any endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import h11

from keyd.api import MAX_BODY
from keyd.http.messages import Refused, Request, Response, refusal
from keyd.peer import Peer
from keyd.reasons import Reason

MAX_HEAD: Final = 8 * 1024
"""Bytes of request line and headers. Everything that is long travels in the body: real ones have some hundred."""
HEAD_S: Final = 10.0
"""For the head of a request, from the start of a connection or from the head's first byte. Real ones need
milliseconds; one that drips would keep a place for nothing."""
BODY_S: Final = 10.0
"""For the body, as for the head."""
IDLE_S: Final = 60.0
"""Between two requests. Longer than clients keep a connection (aiohttp: 15 s), so that none is closed on them just
as they use it again."""
SEND_S: Final = 30.0
"""For a peer to take its answer; the longest, 1000 ledger entries, has about a megabyte."""
LINGER_S: Final = 2.0
"""For what a peer still sends after it was refused. Closing on unread bytes would take the answer away from it."""
_READ: Final = 16 * 1024

type Answer = Callable[[Request], Awaitable[Response]]


class Connection:
    """Serves one peer until it goes, is too slow, or says something that is not HTTP."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer, answer: Answer
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._peer = peer
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._patience_s = HEAD_S  # a peer that connects has something to say
        self._method = b""
        self._last = False
        self.busy = False
        """A request is being answered."""

    async def serve(self) -> None:
        """Never raises for anything that the peer did."""
        try:
            while (request := await self._next_request()) is not None:
                self.busy = True
                await self._send(await self._answer(request))
                self.busy = False
                if self._http.our_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
                self._patience_s = IDLE_S
                await asyncio.sleep(0)  # who sends many at once must not keep the loop from everybody else
        except Refused as refused:
            await self._refuse(refused)
        except OSError:  # the peer is gone, or does not take its answer (TimeoutError)
            pass
        finally:
            await self._close()

    async def turn_away(self, refused: Refused) -> None:
        """Refuses whatever it is going to ask. Never raises for anything that the peer did."""
        await self._refuse(refused)
        await self._close()

    def finish(self) -> None:
        """The answer that is being made is the last."""
        self._last = True

    # -- received -----------------------------------------------------------------------------------------

    async def _next_request(self) -> Request | None:
        """None if there is no more. Raises Refused for a head that is slow, too large, or not HTTP."""
        if not self._http.trailing_data[0] and not await self._something_came():
            return None
        try:
            event = await self._next_event(_in(HEAD_S))
        except TimeoutError:
            words = f"the head of the request did not arrive in {HEAD_S:.0f} s"
            raise Refused(Reason.REQUEST_MALFORMED, words, 408) from None
        if not isinstance(event, h11.Request):
            return None  # closed without another request
        if _size(event) > MAX_HEAD:  # h11 bounds what is incomplete; this one came in one piece
            raise Refused(Reason.REQUEST_MALFORMED, f"the head has more than {MAX_HEAD} bytes", 431)
        _check_framing(dict(event.headers))
        self._method = event.method
        return Request(event.method.decode(), event.target.decode(), self._peer, self._body)

    async def _something_came(self) -> bool:
        """False if the peer closed, or has said nothing for too long."""
        try:
            async with asyncio.timeout(self._patience_s):
                received = await self._reader.read(_READ)
        except TimeoutError:
            return False
        self._http.receive_data(received)
        return bool(received)

    async def _body(self) -> bytes:
        """The body of the request that is being answered, as long as its head said. Raises Refused for one that is slow."""
        if self._http.they_are_waiting_for_100_continue:
            self._writer.write(self._encode(h11.InformationalResponse(status_code=100, headers=[])))
        received, deadline = bytearray(), _in(BODY_S)
        try:
            while isinstance(event := await self._next_event(deadline), h11.Data):
                received += event.data
        except TimeoutError:
            words = f"the body did not arrive in {BODY_S:.0f} s"
            raise Refused(Reason.REQUEST_MALFORMED, words, 408) from None
        return bytes(received)

    async def _next_event(self, deadline: float) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Raises Refused for what is not HTTP, a connection that broke off included; TimeoutError at `deadline`, in
        the loop's time. Most requests have arrived whole, and set no timer."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout_at(deadline):
                    received = await self._reader.read(_READ)
                self._http.receive_data(received)
        except (h11.RemoteProtocolError, ConnectionError) as error:
            status = getattr(error, "error_status_hint", 400)
            raise Refused(Reason.REQUEST_MALFORMED, f"not HTTP/1.1: {error}", status) from None
        return event

    # -- sent ---------------------------------------------------------------------------------------------

    async def _send(self, response: Response) -> None:
        """Raises OSError, TimeoutError among them, if the peer does not take it."""
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        if response.close or self._last or not self._was_read_to_its_end():
            headers.append(("Connection", "close"))
        answer = self._encode(h11.Response(status_code=response.status, headers=headers))
        if self._method != b"HEAD":
            answer += self._encode(h11.Data(data=response.body))
        self._writer.write(answer + self._encode(h11.EndOfMessage()))
        if self._writer.transport.get_write_buffer_size():  # the kernel did not take it all: the peer is slow
            async with asyncio.timeout(SEND_S):
                await self._writer.drain()

    async def _refuse(self, refused: Refused) -> None:
        """What cannot be answered any more is not."""
        with suppress(OSError, h11.LocalProtocolError):
            await self._send(replace(refusal(refused), close=True))

    def _was_read_to_its_end(self) -> bool:
        """Whether another request can follow. What has arrived of a body that nobody asked for is dropped."""
        try:
            while self._http.their_state is h11.SEND_BODY:
                if self._http.next_event() is h11.NEED_DATA:
                    return False
        except h11.RemoteProtocolError:
            return False
        return self._http.their_state is h11.DONE

    def _encode(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _close(self) -> None:
        try:
            self._writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(_READ):
                    pass
        except OSError:  # it is gone, or goes on sending (TimeoutError)
            pass
        finally:
            self._writer.transport.abort()


def _in(seconds: float) -> float:
    """A deadline, in the loop's time."""
    return asyncio.get_running_loop().time() + seconds


def _size(head: h11.Request) -> int:
    return len(head.target) + sum(len(name) + len(value) for name, value in head.headers)


def _check_framing(headers: dict[bytes, bytes]) -> None:
    """Raises Refused unless the head bounds its body: h11 then takes no byte more."""
    if b"transfer-encoding" in headers:
        # No client of ours does, and half a megabyte in chunks of a byte takes ten seconds to put together.
        raise Refused(Reason.REQUEST_MALFORMED, "a body comes with its Content-Length, not in chunks", 411)
    if int(headers.get(b"content-length", b"0")) > MAX_BODY:
        raise Refused(Reason.REQUEST_MALFORMED, f"the body has more than {MAX_BODY} bytes", 413)
