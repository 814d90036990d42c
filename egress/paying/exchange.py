"""What egress knows about one request of the application, from its headers to the last byte of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mitmproxy import http

from egress.paying.room import Room, Share
from egress.paying.steering import Wishes
from egress.wire.mcp import PaidAnswer, PaidCall
from egress.wire.x402 import Header
from keyd.api import SignReply
from keyd.reasons import Reason

EGRESS_HEADER: Final = "X-402-Egress"
"""The answer header in which egress tells the application what it did. Never believed from a server."""

_KEY: Final = "osmoda.x402"


class BodyCopy:
    """Forwards a streamed request body and keeps a copy of it, up to `limit` bytes, for the paid request.

    Called by mitmproxy with each chunk (`flow.request.stream`).
    """

    __slots__ = ("_kept", "_share", "limit", "refusal")

    def __init__(self, limit: int, share: Share, *, length: int | None = None) -> None:
        """`length`: Content-Length, if the request states it; a body that cannot be kept is not begun to be."""
        self.limit = limit
        self.refusal: Reason | None = None
        """Why the body is not kept, and the request cannot be repeated."""
        self._share = share
        self._kept = bytearray()  # not a list of chunks: those of one byte each take thirty times the room
        if length is not None and length > limit:
            self.refusal = Reason.BODY_TOO_LARGE

    def __call__(self, data: bytes) -> bytes:
        if self.refusal is None:
            if len(self._kept) + len(data) > self.limit:
                self._give_up(Reason.BODY_TOO_LARGE)
            elif not self._share.take(len(data)):
                self._give_up(Reason.EGRESS_FULL)
            else:
                self._kept += data
        return data

    def _give_up(self, reason: Reason) -> None:
        self.refusal = reason
        self._kept = bytearray()
        self._share.give_back()

    def content(self) -> bytes:
        """The whole body. Only meaningful if there is no `refusal`."""
        return bytes(self._kept)

    def discard(self) -> None:
        """Nothing needs it any more, however much of it is still to come."""
        self._give_up(self.refusal or Reason.INTERNAL)


@dataclass(slots=True)
class Payment:
    """A payment that keyd signed for this request."""

    reply: SignReply
    instrument: Header | PaidCall
    """What carries it: a header, or an MCP call."""
    fingerprint: str
    prepaid: bool = False
    """The server had not asked yet."""
    sent_at: float | None = None
    """`time.monotonic` just before the first byte that carried it: from there on it may be settled by anyone."""
    reported: bool = False
    answer: PaidAnswer | None = None
    """The answer to a paid call, in which the outcome stands."""

    @property
    def sent(self) -> bool:
        return self.sent_at is not None


@dataclass(slots=True)
class Exchange:
    """State of one request; lives in the flow's metadata (`of`)."""

    body: BodyCopy | None = None
    """None: the body is small and held by mitmproxy itself, or there is none."""
    share: Share = field(default_factory=Room(0).share)
    """Memory for the body and for a held 402."""
    wishes: Wishes = field(default_factory=Wishes)
    refusal: str | None = None
    """Reason code why a 402 of this request is not, or was not, paid."""
    may_prepay: bool = False
    """What the server will ask for is as good as certain."""
    probed: bool = False
    """The terms were asked for once more, as JSON."""
    signed_in: bool = False
    """The request was repeated with a signed-in wallet."""
    asked_in_body: bool = False
    """The answer asked for payment in its body, as MCP does, and not by its status."""
    payment: Payment | None = None
    hung_up: bool = False
    """The application closed its connection or cancelled its stream before the answer was complete."""

    @property
    def payable(self) -> bool:
        """Whether a 402 that arrives now should be held and paid."""
        return self.reason is None and self.payment is None

    @property
    def reason(self) -> str | None:
        """`refusal`, or why the body could not be kept."""
        return self.refusal or (self.body.refusal if self.body else None)

    def release(self) -> None:
        """The exchange has ended: give back the memory that it took."""
        if self.body is not None:
            self.body.discard()
        self.share.give_back()

    @classmethod
    def of(cls, flow: http.HTTPFlow) -> Exchange:
        exchange = flow.metadata.get(_KEY)
        if exchange is None:
            exchange = flow.metadata[_KEY] = cls()
        assert isinstance(exchange, cls)
        return exchange
