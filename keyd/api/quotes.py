"""Messages about quotes: would this be paid? Nothing is recorded and nothing is signed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from keyd.api.base import MAX_OFFERS, Hex32, Message
from keyd.api.payments import Dialect, Method, Origin


class QuoteRequest(Message):
    """`POST /x402/quote`: the terms of a 402, as in `SignRequest`. The caller is the user who asks."""

    origin: Origin
    method: Method = "GET"
    path: Annotated[str, StringConstraints(max_length=2048)]
    x402_version: Literal[1, 2]
    dialect: Dialect = "x402"
    offers: Annotated[list[Any], Field(min_length=1, max_length=MAX_OFFERS)]
    session: Hex32 | None = None
    """SHA-256 of a session's token, if the request would be made in one."""


class QuotedOffer(Message):
    """The offer that would be paid if policy allowed it: the cheapest that keyd can pay at all."""

    accepted: int
    """Index into `offers`."""
    amount: str
    """Whole tokens."""
    amount_usd: str
    asset: str
    """Symbol from keyd's own table."""
    network: str
    pay_to: str


class Quote(Message):
    """What keyd would decide now. It reserves nothing: the decision that counts is made when a payment is asked for."""

    verdict: Literal["pay", "hold", "refuse"]
    """`hold`: an administrator would be asked first."""
    code: str | None = None
    detail: str = ""
    hint: str = ""
    offer: QuotedOffer | None = None
    """None: keyd could pay none of the offers, whatever policy says."""
