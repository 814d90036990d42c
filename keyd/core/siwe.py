"""Sign-In with Ethereum (EIP-4361) for x402's `sign-in-with-x`: the text and its EIP-191 digest, built here and nowhere
else. Pure.

Of the seller's challenge only what identifies the request is taken over (URI, nonce, times, request id), each in a form
that leaves no room for words. `statement` and `resources` are never signed: keyd signs no text of others
(docs/adr/0009). Sources: EIP-4361, EIP-191 version 0x45, x402 specs/extensions/sign-in-with-x.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from keyd.api import Origin
from keyd.core.evm import keccak256

VALID_S: Final = 300
"""Longest life of a sign-in. Official servers refuse a challenge that is older, too."""
CLOCK_SKEW_S: Final = 60
"""How far ahead of ours the clock of a server may be."""

_URI: Final = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]{1,2048}", re.ASCII)
"""RFC 3986, without a fragment."""
_NONCE: Final = re.compile(r"[A-Za-z0-9]{8,128}", re.ASCII)  # EIP-4361; the longest seen has 32
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9\-._~]{1,128}", re.ASCII)
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_CHAIN: Final = re.compile(r"eip155:([1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignIn:
    """What is signed: every field was checked, or is ours."""

    domain: str
    address: str
    uri: str
    chain_id: int
    nonce: str
    issued_at: str
    expires_at: str
    request_id: str | None

    def message(self) -> str:
        """The text, in the grammar of EIP-4361."""
        lines = [
            f"{self.domain} wants you to sign in with your Ethereum account:",
            self.address,
            "",
            "",  # where a statement would be
            f"URI: {self.uri}",
            "Version: 1",
            f"Chain ID: {self.chain_id}",
            f"Nonce: {self.nonce}",
            f"Issued At: {self.issued_at}",
            f"Expiration Time: {self.expires_at}",
        ]
        if self.request_id is not None:
            lines.append(f"Request ID: {self.request_id}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, str]:
        """The members that the server rebuilds the text from, without the signature."""
        members = {
            "domain": self.domain,
            "address": self.address,
            "uri": self.uri,
            "version": "1",
            "chainId": f"eip155:{self.chain_id}",
            "type": "eip191",
            "nonce": self.nonce,
            "issuedAt": self.issued_at,
            "expirationTime": self.expires_at,
        }
        return members if self.request_id is None else {**members, "requestId": self.request_id}


def answer(
    info: Mapping[str, Any],
    chains: Sequence[object],
    *,
    origin: Origin,
    networks: frozenset[str],
    address: str,
    now_s: int,
) -> SignIn:
    """The sign-in that answers a challenge of `origin`, the one that was really contacted.

    `info` and `chains` are the seller's `info` and `supportedChains`. Raises ValueError in words for a challenge that
    is not bound to that origin, not fresh, or on no chain of `networks`.
    """
    authority = str(origin).partition("://")[2]
    if info.get("domain") != authority:
        raise ValueError(f"domain is not {authority}")
    if info.get("version") != "1":
        raise ValueError("version is not 1")
    return SignIn(
        domain=authority,
        address=address,
        uri=_uri(info.get("uri"), origin),
        chain_id=_chain(chains, networks),
        nonce=_matching(info, "nonce", _NONCE),
        issued_at=_issued_at(info, now_s),
        expires_at=_expires_at(info, now_s),
        request_id=None if info.get("requestId") is None else _matching(info, "requestId", _REQUEST_ID),
    )


def digest(message: str) -> bytes:
    """The 32 bytes to sign (EIP-191, personal_sign).

    They begin with 0x19 0x45; those of a transfer with 0x19 0x01 (EIP-712). The same signature for both would take a
    collision of keccak-256.
    """
    encoded = message.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(encoded)).encode() + encoded)


def _uri(value: object, origin: Origin) -> str:
    if not isinstance(value, str) or _URI.fullmatch(value) is None:
        raise ValueError("uri is not a URI of at most 2048 characters")
    try:
        parts = urlsplit(value)
    except ValueError:
        raise ValueError("uri is not a URI") from None
    if f"{parts.scheme}://{parts.netloc}" != str(origin):
        raise ValueError(f"uri is not at {origin}")
    return value


def _chain(chains: Sequence[object], networks: frozenset[str]) -> int:
    for chain in chains:
        if not isinstance(chain, dict) or chain.get("type") != "eip191":
            continue
        name = chain.get("chainId")
        if isinstance(name, str) and name in networks and (match := _CHAIN.fullmatch(name)):
            return int(match[1])
    raise ValueError("no chain of the challenge is one of our networks with eip191")


def _issued_at(info: Mapping[str, Any], now_s: int) -> str:
    age = now_s - _moment(info, "issuedAt")
    if not -CLOCK_SKEW_S <= age <= VALID_S:
        raise ValueError(f"issuedAt is not within the last {VALID_S} seconds")
    return str(info["issuedAt"])


def _expires_at(info: Mapping[str, Any], now_s: int) -> str:
    """Ours, and not later than the seller's: the text is valid for minutes even if a challenge says years."""
    if info.get("notBefore") is not None and _moment(info, "notBefore") > now_s:
        raise ValueError("notBefore lies ahead")
    expires = now_s + VALID_S
    if info.get("expirationTime") is not None:
        expires = min(expires, int(_moment(info, "expirationTime")))
    if expires <= now_s:
        raise ValueError("expirationTime has passed")
    return datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(info: Mapping[str, Any], name: str) -> float:
    text = _matching(info, name, _TIME)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is not a time") from None


def _matching(info: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = info.get(name)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{name} is {'missing' if value is None else 'malformed'}")
    return value
