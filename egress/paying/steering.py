"""What an application says about one of its own requests, in X-402-* headers: read once, never sent on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mitmproxy import http

from keyd.reasons import Reason

INTENT: Final = "X-402-Intent"
MAX: Final = "X-402-Max"
PAY: Final = "X-402-Pay"
KEY: Final = "X-402-Key"
PAYMENT: Final = "X-402-Payment"
"""No word to egress: with some sellers, and in no specification, it carries the program's own payment."""
_PREFIX: Final = "x-402-"
_ONCE: Final = (INTENT, MAX, PAY)
_KNOWN: Final = frozenset(name.lower() for name in (*_ONCE, KEY))


@dataclass(frozen=True, slots=True)
class Wishes:
    """The headers of one request. keyd reads the texts (`keyd.core.applimits`); here they only have to be clear."""

    intent: str | None = None
    """Tells purchases apart that are otherwise the same request."""
    max_spend: str | None = None
    prefer: str | None = None
    refusal: Reason | None = None
    """Why a 402 of this request is not paid, if the headers alone say so."""

    @classmethod
    def of(cls, headers: http.Headers) -> Wishes:
        """Raises nothing: what cannot be obeyed becomes a refusal, because a limit that was meant must count."""
        if KEY in headers:
            return cls(refusal=Reason.KEY_IN_HEADER)
        said = {name: headers.get_all(name) for name in _ONCE}
        if any(len(values) > 1 for values in said.values()):
            return cls(refusal=Reason.APP_LIMIT_MALFORMED)  # of two limits neither is the one that was meant
        if any(_is_ours(name) and name.lower() not in _KNOWN for name in headers):
            return cls(refusal=Reason.APP_LIMIT_MALFORMED)  # a limit that is misspelt was meant all the same
        intent, max_spend, prefer = (values[0] if values else None for values in said.values())
        if prefer is not None and prefer.strip().lower() == "none":
            return cls(intent, max_spend, refusal=Reason.APP_DECLINED)
        return cls(intent, max_spend, prefer)


def refusal_by_trailers(trailers: http.Headers) -> Reason | None:
    """After the body nobody waits for limits any more: what is said there refuses the payment."""
    if KEY in trailers:
        return Reason.KEY_IN_HEADER
    return Reason.APP_LIMIT_MALFORMED if any(map(_is_ours, trailers)) else None


def strip(headers: http.Headers) -> None:
    """Remove every X-402-* field but a payment; X-402-Key is a private key."""
    for name in set(filter(_is_ours, headers)):
        del headers[name]


def _is_ours(name: str) -> bool:
    return name.lower().startswith(_PREFIX) and name.lower() != PAYMENT.lower()
