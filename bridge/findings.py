"""What came of asking sellers and marketplaces for prices. Texts are as strangers wrote them: `bridge.untrusted`."""

from __future__ import annotations

from dataclasses import dataclass

from yarl import URL

from keyd import api


@dataclass(frozen=True, slots=True)
class Priced:
    """What came of asking a URL. Texts are as strangers wrote them: show them through `bridge.untrusted`."""

    url: URL
    status: int
    asks_for_money: bool
    quote: api.Quote | None = None
    """None: it asks for no money, or in terms that cannot be read."""
    description: str | None = None
    location: str | None = None
    refused_by_egress: str | None = None
    """Reason code of egress, if it did not let the request through."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a marketplace. Texts are as strangers wrote them."""

    resource: str
    name: str | None
    description: str | None
    quote: api.Quote | None
    """None: its terms or its URL cannot be read."""
