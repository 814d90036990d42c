"""What an application may say about one of its own requests: at most this much, rather in that token.

Both only ever tighten: they choose among offers that policy allows. A text that cannot be read refuses the
payment, because a cap that was meant must not be lost.

    X-402-Max: 0.05              at most 0.05 USD
    X-402-Max: USDC:0.05         in USDC only, at most 0.05 of it, on any network
    X-402-Max: USDC@base:0.05    in USDC on Base only, at most 0.05 of it
    X-402-Pay: USDC@base         this token, if the server offers it
    X-402-Pay: {"asset": "USDC", "network": "base"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keyd.core.assets import V1_NETWORKS, Asset
from keyd.core.money import format_token_amount, format_usd, parse_token_amount, parse_usd
from keyd.core.offers import Offer

_SYMBOL: Final = re.compile(r"[A-Za-z0-9.$_-]{1,16}", re.ASCII)
_CAIP2: Final = re.compile(r"eip155:[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A token by symbol, on one network (CAIP-2) or on any (None)."""

    symbol: str
    network: str | None

    @classmethod
    def parse(cls, text: str) -> Token:
        """ "USDC", "USDC@base" or "USDC@eip155:8453". Raises ValueError."""
        symbol, at, network = text.partition("@")
        if _SYMBOL.fullmatch(symbol) is None:
            raise ValueError(f"{symbol[:40]!a} is not a token symbol")
        if not at:
            return cls(symbol, None)
        caip2 = V1_NETWORKS.get(network, network)
        if _CAIP2.fullmatch(caip2) is None:
            raise ValueError(f"{network[:40]!a} is not a known network")
        return cls(symbol, caip2)

    def names(self, asset: Asset) -> bool:
        return asset.symbol == self.symbol and self.network in (None, asset.network)


@dataclass(frozen=True, slots=True)
class Cap:
    """X-402-Max: an amount of USD, or of one token."""

    text: str
    usd: int | None = None
    """Micro-USD."""
    token: Token | None = None
    amount: str = ""
    """Whole tokens, as written; how many atomic units that is depends on the token's decimals."""

    @classmethod
    def parse(cls, text: str) -> Cap:
        """Raises ValueError."""
        text = text.strip()
        token, colon, amount = text.rpartition(":")
        if not colon:
            return cls(text, usd=parse_usd(text))
        parse_token_amount(amount, 36)  # an amount no token could have is refused here, not offer by offer
        return cls(text, token=Token.parse(token), amount=amount)

    def against(self, offer: Offer) -> str | None:
        """Why this cap forbids the offer, in words; None if it does not."""
        if self.token is None:
            within = self.usd is not None and offer.usd_micros <= self.usd
            return None if within else f"{format_usd(offer.usd_micros)} USD > {self.text} USD"
        if not self.token.names(offer.asset):
            return f"{offer.asset} is not {self.text.rpartition(':')[0]}"
        if offer.amount <= _floor(self.amount, offer.asset.decimals):
            return None
        price = format_token_amount(offer.amount, offer.asset.decimals)
        return f"{price} {offer.asset.symbol} > {self.amount} {offer.asset.symbol}"


@dataclass(frozen=True, slots=True)
class AppLimits:
    """Both headers of one request, read."""

    cap: Cap | None = None
    prefer: Token | None = None

    @classmethod
    def parse(cls, maximum: str | None, pay: str | None) -> AppLimits:
        """Raises ValueError, whose text names the header and what is wrong with it."""
        try:
            cap = None if maximum is None else Cap.parse(maximum)
        except ValueError as error:
            raise ValueError(f"X-402-Max: {error}") from None
        try:
            prefer = None if pay is None else _preference(pay)
        except ValueError as error:
            raise ValueError(f"X-402-Pay: {error}") from None
        return cls(cap, prefer)

    def preferred(self, offers: Sequence[Offer]) -> list[Offer]:
        """The offers in the preferred token, or all of them if none is."""
        return [o for o in offers if self.prefer is not None and self.prefer.names(o.asset)] or list(offers)


def _floor(amount: str, decimals: int) -> int:
    """Atomic units of `amount`, rounded down: a cap finer than the token allows no more than was said."""
    whole, _, fraction = amount.partition(".")
    return int(whole + fraction[:decimals].ljust(decimals, "0"))


def _preference(text: str) -> Token:
    text = text.strip()
    if not text.startswith("{"):
        return Token.parse(text)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    symbol = document.get("asset", document.get("token"))
    network = document.get("network", document.get("chain"))
    if not isinstance(symbol, str) or not isinstance(network, str | None):
        raise ValueError('write it like {"asset": "USDC", "network": "base"}')
    return Token.parse(symbol if network is None else f"{symbol}@{network}")
