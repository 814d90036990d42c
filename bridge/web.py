"""Looks at URLs without paying: through egress, which guards private addresses and is told not to pay."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from pydantic import ValidationError
from yarl import URL

from keyd.api import Origin

DEFAULT_PROXY: Final = "http://127.0.0.1:19999"
DEFAULT_CA: Final = Path("/var/lib/osmoda-egress/ca-cert.pem")
MAX_URL: Final = 2048
MAX_PAGE: Final = 1024 * 1024
"""Bytes of one answer: a page of a marketplace with a hundred entries has a few hundred KB."""
TIMEOUT_S: Final = 20.0
"""For a whole answer. An agent waits for it."""
_HEADERS: Final = {
    "Accept": "application/json, */*;q=0.5",
    "User-Agent": "osmoda-bridge",
    "X-402-Pay": "none",  # egress passes a 402 on and asks keyd for nothing
}


class NotAnswered(Exception):
    """No answer that could be used. The text says why, in our words alone."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer, all of it from strangers but `egress`."""

    status: int
    payment_required: tuple[str, ...]
    """PAYMENT-REQUIRED, each line of it."""
    location: str | None
    egress: str | None
    """X-402-Egress; the server's own, if egress tunnels to it and does not look inside."""
    body: bytes


def parse_url(text: str) -> URL:
    """An absolute http or https URL without credentials. Raises ValueError in words that do not repeat it."""
    try:
        url = URL(text.strip())
        host = url.raw_host  # ValueError for a port or a host that is none
        _ = url.port
    except (ValueError, TypeError):
        raise ValueError("that is not a URL") from None
    if url.scheme not in ("http", "https") or not host:
        raise ValueError("give a whole URL, like https://api.example.com/report")
    if url.user is not None or url.password is not None:
        raise ValueError("leave credentials out of the URL")
    if len(str(url)) > MAX_URL:
        raise ValueError(f"the URL has more than {MAX_URL} characters")
    return url.with_fragment(None)


def origin_of(url: URL) -> Origin:
    """Raises ValueError for a host that no certificate could name."""
    host = (url.raw_host or "").lower().rstrip(".")
    try:
        return Origin.model_validate({"scheme": url.scheme, "host": host, "port": url.port})
    except ValidationError:  # its text would repeat the URL
        raise ValueError("the URL names no host that could be paid") from None


class Web:
    """One pool of connections through egress. Use as `async with Web(proxy, ca) as web:`."""

    def __init__(self, proxy: str, ca: Path) -> None:
        """`proxy` may hold the credentials of a session; `ca`: egress's certificate, trusted besides the system's."""
        self._proxy = URL(proxy)
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, url: URL, query: Mapping[str, str] | None = None) -> Page:
        """One request; a redirect is not followed. Raises NotAnswered."""
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._open().get(
                    url.update_query(query or {}), headers=_HEADERS, proxy=self._proxy, allow_redirects=False
                ) as answer,
            ):
                return Page(
                    status=answer.status,
                    payment_required=tuple(answer.headers.getall("PAYMENT-REQUIRED", ())),
                    location=answer.headers.get("Location"),
                    egress=answer.headers.get("X-402-Egress"),
                    body=await _bounded(answer.content),
                )
        except TimeoutError:
            raise NotAnswered(f"no complete answer within {TIMEOUT_S:.0f} seconds") from None
        except aiohttp.ClientProxyConnectionError:
            raise NotAnswered(
                "egress does not answer: is osmoda-egress running, and --proxy right?"
            ) from None
        except aiohttp.ClientHttpProxyError as error:  # the answer of egress to CONNECT
            said = None if error.headers is None else error.headers.get("X-402-Egress")
            if said is None:
                raise NotAnswered(f"egress did not connect to it (HTTP {error.status})") from None
            return Page(error.status, payment_required=(), location=None, egress=said, body=b"")
        except aiohttp.ClientSSLError:
            raise NotAnswered("its certificate, or egress's, is not trusted (--ca)") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # the text may quote what the server sent
            raise NotAnswered(f"the connection failed ({type(error).__name__})") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context()
            try:
                context.load_verify_locations(cafile=self._ca)
            except OSError:
                raise NotAnswered(
                    "egress's certificate cannot be read: start osmoda-egress once, or name it with --ca"
                ) from None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # NO_PROXY would lead around egress and its guard
                max_field_size=256 * 1024,
                max_line_size=64 * 1024,
            )
        return self._session


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    received = bytearray()
    async for chunk in content.iter_chunked(64 * 1024):
        received += chunk
        if len(received) > MAX_PAGE:
            raise NotAnswered(f"the answer has more than {MAX_PAGE // 1024} KiB")
    return bytes(received)
