"""What egress knows about one request of the application, from its headers to the last byte of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mitmproxy import http

from egress.steering import Wishes
from egress.x402 import Header
from keyd.api import SignReply

EGRESS_HEADER: Final = "X-402-Egress"
"""The answer header in which egress tells the application what it did. Never believed from a server."""

_KEY: Final = "osmoda.x402"


class BodyCopy:
    """Forwards a streamed request body and keeps a copy of it, up to `limit` bytes, for the paid request.

    Called by mitmproxy with each chunk (`flow.request.stream`).
    """

    __slots__ = ("_kept", "limit", "overflowed")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.overflowed = False
        self._kept = bytearray()  # not a list of chunks: those of one byte each take thirty times the room

    def __call__(self, data: bytes) -> bytes:
        if not self.overflowed:
            self.overflowed = len(self._kept) + len(data) > self.limit
            if self.overflowed:
                self._kept = bytearray()
            else:
                self._kept += data
        return data

    def content(self) -> bytes:
        """The whole body. Only meaningful if it did not overflow."""
        return bytes(self._kept)

    def discard(self) -> None:
        self._kept = bytearray()


@dataclass(slots=True)
class Payment:
    """A payment that keyd signed for this request."""

    reply: SignReply
    header: Header
    fingerprint: str
    sent: bool = False
    """True from just before the first byte that carries it: from here on it may be settled by anyone."""
    reported: bool = False


@dataclass(slots=True)
class Exchange:
    """State of one request; lives in the flow's metadata (`of`)."""

    body: BodyCopy | None = None
    """None: the body is small and held by mitmproxy itself, or there is none."""
    wishes: Wishes = field(default_factory=Wishes)
    refusal: str | None = None
    """Reason code why a 402 of this request is not, or was not, paid."""
    probed: bool = False
    """The terms were asked for once more, as JSON."""
    signed_in: bool = False
    """The request was repeated with a signed-in wallet."""
    payment: Payment | None = None
    hung_up: bool = False
    """The application closed its connection or cancelled its stream before the answer was complete."""

    @property
    def payable(self) -> bool:
        """Whether a 402 that arrives now should be held and paid."""
        return self.refusal is None and self.payment is None and not (self.body and self.body.overflowed)

    @classmethod
    def of(cls, flow: http.HTTPFlow) -> Exchange:
        exchange = flow.metadata.setdefault(_KEY, cls())
        assert isinstance(exchange, cls)
        return exchange
