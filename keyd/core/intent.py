"""What somebody wants to pay for, in keyd's own terms: parsed once from either form of `POST /x402/sign`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from keyd import api
from keyd.core import flat
from keyd.core.applimits import AppLimits
from keyd.core.assets import AssetTable
from keyd.core.money import parse_token_amount
from keyd.core.offers import PaymentRequirements, Unpayable
from keyd.reasons import Reason

UNKNOWN_CALLER: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Intent:
    """One purchase that an application wants to make."""

    origin: api.Origin
    method: str
    path: str
    caller: str
    """ "uid:1000", "proxy:ci", or UNKNOWN_CALLER."""
    fingerprint: str
    """SHA-256 (hex) of the request that would be repeated, or of the flat form's fields."""
    key: str | None
    """The application's own X-402-Intent."""
    x402_version: int
    offers: tuple[PaymentRequirements | Unpayable, ...]
    resource_url: str | None
    wallet_id: str | None
    signed_offers: tuple[object, ...] = ()
    """As received (`keyd.core.attestations`)."""
    dialect: str = "x402"
    """How the seller wrote the offers: "x402" or "flat"."""
    session: str | None = None
    """SHA-256 (hex) of the token of the session that the program says it runs in."""
    started_us: int | None = None
    """When the application's request arrived, Unix time in microseconds."""
    app_words: tuple[str | None, str | None] = (None, None)
    """X-402-Max and X-402-Pay as they were written, for the record."""
    prepaid: bool = False
    """The server has not asked yet; `offers` are those of its last 402."""
    limits: AppLimits | Unpayable = field(default_factory=AppLimits)
    """What the application allows; Unpayable if it said something that cannot be read."""
    domain: str = field(init=False)
    """The origin as `allowed_domains` spells it: "api.example.com", "host:8443", "http://127.0.0.1:4021"."""
    intent_key: str = field(init=False)
    """One intent, one nonce: requests with the same key share one authorization while it is open."""

    def __post_init__(self) -> None:
        origin = str(self.origin)
        parts = [self.caller, origin, self.method, self.fingerprint, self.key]
        key = hashlib.sha256(b"osmoda-intent/v1\n" + json.dumps(parts).encode()).hexdigest()
        object.__setattr__(self, "domain", origin.removeprefix("https://"))
        object.__setattr__(self, "intent_key", key)

    def record(self) -> dict[str, Any]:
        """What the ledger keeps of the question. The query of the URL is not in it: it may hold secrets."""
        return {
            "caller": self.caller,
            "domain": self.domain,
            "fingerprint": self.fingerprint,
            "intent": self.key,
            "method": self.method,
            "offers": [_offer_record(offer) for offer in self.offers],
            "max_spend": self.app_words[0],
            "path": self.path,
            "prefer": self.app_words[1],
            "session": None if self.session is None else self.session[:16],
            "resource_url": None if self.resource_url is None else self.resource_url.partition("?")[0][:512],
            "x402_version": self.x402_version,
        } | ({"prepaid": True} if self.prepaid else {})


def from_request(request: api.SignRequest, assets: AssetTable, now_s: int) -> Intent:
    """The full form. Every offer is read alone: one that is malformed stays in the list as such."""
    return Intent(
        origin=request.origin,
        method=request.method,
        path=request.path,
        caller=UNKNOWN_CALLER if request.caller is None else str(request.caller),
        fingerprint=request.fingerprint,
        key=request.intent,
        x402_version=request.x402_version,
        offers=read_terms(request, assets, now_s),
        resource_url=request.resource_url,
        wallet_id=request.wallet_id,
        signed_offers=tuple(request.signed_offers),
        dialect=request.dialect,
        session=request.session,
        started_us=request.started_at,
        app_words=(request.max_spend, request.prefer),
        prepaid=request.prepaid,
        limits=read_limits(request.max_spend, request.prefer),
    )


def from_flat(request: api.FlatSignRequest, assets: AssetTable, now_s: int, caller: str) -> Intent:
    """osModa's flat form, as one v2 offer. Raises ValueError. The form names no caller: the peer is it.

    `amount_usd` is taken as whole tokens times their USD value, which must come out exactly.
    """
    asset = flat.find_asset(request.chain, request.asset, assets)
    if asset.usd_per_token != 1_000_000:
        raise ValueError(f"amount_usd can name an amount of {asset} only if one token counts as 1.00 USD")
    try:
        amount = parse_token_amount(request.amount_usd, asset.decimals)
    except ValueError as error:
        raise ValueError(f"amount_usd: {error}") from None
    fields = request.model_dump_json().encode()
    return Intent(
        origin=api.Origin(scheme="https", host=request.domain, port=443),
        method="GET",
        path="",
        caller=caller,
        fingerprint=hashlib.sha256(b"osmoda-flat/v1\n" + fields).hexdigest(),
        key=None,
        x402_version=2,
        offers=(flat.requirements(0, asset, amount, request.pay_to, request.expiry - now_s),),
        resource_url=None,
        wallet_id=request.wallet_id,
    )


def read_terms(
    request: api.SignRequest | api.QuoteRequest, assets: AssetTable, now_s: int
) -> tuple[PaymentRequirements | Unpayable, ...]:
    """The offers of a request, in whichever dialect they are written."""
    if request.dialect == "flat":
        return flat.read_offers(request.offers, assets, now_s)
    return read_offers(request.offers, request.x402_version)


def read_offers(entries: Sequence[object], version: Any) -> tuple[PaymentRequirements | Unpayable, ...]:
    """Every entry of `accepts`, each read alone."""
    return tuple(_read(index, entry, version) for index, entry in enumerate(entries))


def read_limits(maximum: str | None, pay: str | None) -> AppLimits | Unpayable:
    """X-402-Max and X-402-Pay, or why they cannot be read."""
    try:
        return AppLimits.parse(maximum, pay)
    except ValueError as error:
        return Unpayable(Reason.APP_LIMIT_MALFORMED, str(error))


def _read(index: int, entry: object, version: Any) -> PaymentRequirements | Unpayable:
    try:
        return PaymentRequirements.from_json(index, entry, version)
    except ValueError as error:
        return Unpayable(Reason.OFFER_MALFORMED, f"offer {index}: {error}")


def _offer_record(offer: PaymentRequirements | Unpayable) -> dict[str, Any]:
    if isinstance(offer, Unpayable):
        return {"malformed": offer.detail}
    return offer.summary()
