"""osModa's flat dialect: `{amount, asset, chain, payTo, expiry}` in place of x402's `accepts`. Pure.

An amount of it is a decimal number of whole tokens. It becomes atomic units here, with the decimals of keyd's own
table and in exact arithmetic; egress and the seller never do that sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from keyd.core.assets import V1_NETWORKS, Asset, AssetTable
from keyd.core.money import parse_token_amount
from keyd.core.offers import Offer, PaymentRequirements, Unpayable
from keyd.reasons import Reason

SHORTEST_S: Final = 10
"""An authorization that is void sooner cannot be settled in time: a facilitator wants six seconds at least."""

_MEMBERS: Final = ("amount", "asset", "chain", "payTo")
_CLIP: Final = 100


def read_offers(
    entries: Sequence[object], assets: AssetTable, now_s: int
) -> tuple[PaymentRequirements | Unpayable, ...]:
    """Each entry in terms of version 2, or why it cannot be put so."""
    return tuple(_read(index, entry, assets, now_s) for index, entry in enumerate(entries))


def find_asset(chain: str, name: str, assets: AssetTable) -> Asset:
    """The token that is meant. `chain`: a network name of version 1 or a CAIP-2 id; `name`: a symbol or an address.

    Raises ValueError if keyd's table has no such token, or more than one of that name.
    """
    network = V1_NETWORKS.get(chain, chain)
    asset = assets.find(network, name) or assets.by_symbol(network, name)
    if asset is None:
        raise ValueError(f"asset {_quote(name)} on chain {_quote(chain)} is not in keyd's table")
    return asset


def requirements(
    index: int, asset: Asset, amount: int, pay_to: str, max_timeout_s: int
) -> PaymentRequirements:
    """`amount` in atomic units, as an offer of the `exact` scheme, to be judged like any other."""
    return PaymentRequirements(
        index=index,
        scheme="exact",
        network=asset.network,
        amount=str(amount),
        asset=asset.address,
        pay_to=pay_to,
        max_timeout_seconds=max_timeout_s,
        extra={},
    )


def as_json(offer: Offer) -> dict[str, Any]:
    """The PaymentRequirements (version 2) that a payment for a flat offer names as `accepted`."""
    return {
        "scheme": "exact",
        "network": offer.asset.network,
        "amount": str(offer.amount),
        "asset": offer.asset.address,
        "payTo": offer.pay_to,
        "maxTimeoutSeconds": offer.window_s,
        "extra": {"name": offer.asset.eip712_name, "version": offer.asset.eip712_version},
    }


def _read(index: int, entry: object, assets: AssetTable, now_s: int) -> PaymentRequirements | Unpayable:
    if not isinstance(entry, dict):
        return Unpayable(Reason.OFFER_MALFORMED, f"offer {index}: not an object")
    for member in _MEMBERS:
        if not isinstance(entry.get(member), str):
            return Unpayable(Reason.OFFER_MALFORMED, f"offer {index}: {member} is not a string")
    try:
        asset = find_asset(entry["chain"], entry["asset"], assets)
    except ValueError as error:
        return Unpayable(Reason.ASSET_UNKNOWN, str(error))
    try:
        amount = parse_token_amount(entry["amount"], asset.decimals)
    except ValueError as error:
        return Unpayable(Reason.AMOUNT_INVALID, f"offer {index}: {ascii(str(error))[1:-1]}")
    expiry = entry.get("expiry")
    if not isinstance(expiry, int) or isinstance(expiry, bool) or expiry < now_s + SHORTEST_S:
        return Unpayable(
            Reason.TIMEOUT_INVALID, f"expiry {_quote(expiry)} is not {SHORTEST_S} seconds from now"
        )
    return requirements(index, asset, amount, entry["payTo"], expiry - now_s)


def _quote(value: object) -> str:
    text = value if isinstance(value, str) else str(value)[:_CLIP]
    return ascii(text[:_CLIP])
