"""What sellers ask for, and what keyd would say to it. Nothing is paid, recorded or reserved by asking.

Used by the tools and by `keyctl x402 discover`. Sources: x402 specs/extensions/bazaar.md (discovery); specs/transports-*.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from yarl import URL

from bridge import terms
from bridge.findings import Found, Priced
from bridge.terms import Terms
from bridge.web import NotAnswered, Page, Web, origin_of, parse_url
from keyd import api
from keyd.client import KeydClient
from keyd.reasons import explain

MAX_FOUND: Final = 20
"""Entries of one page. A model reads no more, and keyd is asked about each one."""


class Market:
    """Asks sellers through `web`, and keyd what it would decide for this user."""

    def __init__(
        self, web: Web, keyd: KeydClient, session: str | None = None, *, flat_dialect: bool = False
    ) -> None:
        """`session`: SHA-256 of the token of the session that requests are made in (`session_of`). `flat_dialect`:
        terms in osModa's flat form are terms, as for egress."""
        self._web = web
        self._keyd = keyd
        self._session = session
        self._flat_dialect = flat_dialect

    async def price(self, url_text: str) -> Priced:
        """Asks a URL what it costs. Raises ValueError, NotAnswered, and what KeydClient raises."""
        url = parse_url(url_text)
        origin = origin_of(url)
        page = await self._web.get(url)
        if (code := _refused_by_egress(page)) is not None:
            return Priced(url, page.status, asks_for_money=False, refused_by_egress=code)
        if page.status != 402:
            return Priced(url, page.status, asks_for_money=False, location=page.location)
        found = terms.read_terms(page.payment_required, page.body, flat_dialect=self._flat_dialect)
        quote = None if found is None else await self._quote(origin, url.raw_path, found)
        description = None if found is None else found.description
        return Priced(url, page.status, asks_for_money=True, quote=quote, description=description)

    async def discover(self, facilitator: str, query: str | None, limit: int) -> list[Found]:
        """What a facilitator lists (or finds), with keyd's word on each. Raises as `price` does."""
        base = parse_url(facilitator)
        wanted = {"type": "http", "limit": str(min(max(limit, 1), MAX_FOUND))}
        if query:
            page = await self._web.get(base / "discovery" / "search", {"query": query, **wanted})
        else:
            page = await self._web.get(base / "discovery" / "resources", wanted)
        entries = _entries(page)
        return [await self._found(entry) for entry in entries[: int(wanted["limit"])]]

    async def _found(self, entry: Mapping[str, Any]) -> Found:
        resource = entry.get("resource")
        metadata = entry.get("metadata")
        described = {**(metadata if isinstance(metadata, dict) else {}), **entry}
        quote = None
        version, accepts = terms.version_of(entry.get("x402Version"), 2), entry.get("accepts")
        if isinstance(resource, str) and version is not None and isinstance(accepts, list) and accepts:
            try:
                url = parse_url(resource)
                quote = await self._quote(origin_of(url), url.raw_path, Terms(version, tuple(accepts)))
            except ValueError:
                quote = None
        return Found(
            resource=resource if isinstance(resource, str) else "",
            name=described.get("serviceName"),
            description=described.get("description"),
            quote=quote,
        )

    async def _quote(self, origin: api.Origin, path: str, found: Terms) -> api.Quote | None:
        try:
            request = api.QuoteRequest(
                origin=origin,
                path=path[:2048],
                x402_version=found.version,
                dialect=found.dialect,
                offers=list(found.accepts[: api.MAX_OFFERS]),
                session=self._session,
            )
        except ValidationError:
            return None
        return await self._keyd.quote(request)


def session_of(proxy: str) -> str | None:
    """SHA-256 of the session token in the credentials of a proxy's URL, as egress tells keyd."""
    url = URL(proxy)
    if url.user != api.SESSION_USER or url.password is None:
        return None
    return hashlib.sha256(url.password.encode()).hexdigest()


def _entries(page: Page) -> list[Mapping[str, Any]]:
    if (code := _refused_by_egress(page)) is not None:
        raise NotAnswered(f"egress refused it ({code})")
    if page.status != 200:
        # egress answers 502 itself for a host that it cannot reach over plain http
        why = (
            "it has a fault, or egress cannot reach it"
            if page.status >= 500
            else "it may not offer this kind of discovery"
        )
        raise NotAnswered(f"the facilitator answered {page.status}: {why}")
    value = terms.loads(page.body)
    listed = None
    if isinstance(value, dict):
        listed = value["items"] if "items" in value else value.get("resources")
    if not isinstance(listed, list):
        raise NotAnswered("the facilitator's answer is not a list of resources")
    return [entry for entry in listed if isinstance(entry, dict)]


def _refused_by_egress(page: Page) -> str | None:
    """The code of a request that egress itself refused; a 402 that it passes on is what was asked for.

    Codes of the registry alone: through a tunnel that egress does not look into comes the header that the seller wrote,
    and a model would read it as egress's word.
    """
    code = (page.egress or "").removeprefix("rejected; reason=")
    return code if page.status != 402 and explain(code) is not None else None
