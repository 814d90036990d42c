"""Parses and judges one entry of `accepts`: may this offer be paid at all, and what would it cost?

Pure. Each entry is judged alone: an entry that cannot be read does not spoil the others.
Sources: x402 specs/x402-specification (v1 and v2), specs/schemes/exact/scheme_exact_evm.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard

from keyd.core.assets import V1_NETWORKS, Asset, AssetTable, TransferMethod
from keyd.core.evm import ZERO_ADDRESS, parse_address
from keyd.core.money import parse_atomic, usd_micros
from keyd.reasons import Reason

_CAIP2_EVM: Final = re.compile(r"eip155:[1-9][0-9]{0,18}", re.ASCII)
_CLIP: Final = 100
"""Characters of a seller's text that are kept for the record; real values are shorter."""


_JUDGED_EXTRA: Final = ("name", "version", "assetTransferMethod", "paymentFlow")
"""Members of `extra` that the judgement depends on."""


@dataclass(frozen=True, slots=True)
class PaymentRequirements:
    """One entry of `accepts`, v1 or v2, with its syntax checked. `index` is its place in the 402."""

    index: int
    scheme: str
    network: str
    """CAIP-2 where it could be mapped, else as received."""
    amount: str
    asset: str
    pay_to: str
    max_timeout_seconds: object
    extra: Mapping[str, Any]

    @classmethod
    def from_json(cls, index: int, entry: object, version: Literal[1, 2]) -> PaymentRequirements:
        """Raises ValueError in words if `entry` does not have the members that its version requires."""
        if not isinstance(entry, dict):
            raise ValueError("not an object")
        amount_name = "maxAmountRequired" if version == 1 else "amount"
        network = _string(entry, "network")
        amount = entry.get(amount_name)
        for other in ("amount", "maxAmountRequired"):
            if other in entry and entry[other] != amount:
                raise ValueError(f"{amount_name} and {other} contradict each other")
        return cls(
            index=index,
            scheme=_string(entry, "scheme"),
            network=V1_NETWORKS.get(network, network) if version == 1 else network,
            amount=_string(entry, amount_name),
            asset=_string(entry, "asset"),
            pay_to=_string(entry, "payTo"),
            max_timeout_seconds=entry.get("maxTimeoutSeconds"),
            extra=_extra(entry.get("extra"), version),
        )

    def summary(self) -> dict[str, Any]:
        """What the ledger keeps of a received offer: enough to judge it again under another policy."""
        timeout = self.max_timeout_seconds
        return {
            "scheme": _recordable(self.scheme),
            "network": _recordable(self.network),
            "amount": _recordable(self.amount),
            "asset": _recordable(self.asset),
            "pay_to": _recordable(self.pay_to),
            "extra": {name: _recordable(self.extra[name]) for name in _JUDGED_EXTRA if name in self.extra},
            "max_timeout_seconds": _recordable(timeout),
        }


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that could be paid: every field checked against keyd's own knowledge."""

    index: int
    asset: Asset
    amount: int
    """Atomic units."""
    usd_micros: int
    pay_to: str
    """EIP-55."""
    window_s: int
    """maxTimeoutSeconds as the seller states it; the encoder clamps it."""


@dataclass(frozen=True, slots=True)
class Unpayable:
    """Why one offer cannot be paid."""

    reason: Reason
    detail: str


def judge(
    terms: PaymentRequirements, assets: AssetTable, networks: frozenset[str], payer: str
) -> Offer | Unpayable:
    """The offer in terms of our own table, or the first reason against it. `payer` is our wallet's address."""
    if terms.scheme != "exact":
        return Unpayable(Reason.SCHEME_UNSUPPORTED, f"scheme {_quote(terms.scheme)}")
    if _CAIP2_EVM.fullmatch(terms.network) is None or terms.network not in assets.networks:
        return Unpayable(Reason.NETWORK_UNKNOWN, f"network {_quote(terms.network)}")
    if terms.network not in networks:
        return Unpayable(Reason.NETWORK_NOT_ALLOWED, f"network {terms.network}")
    asset = assets.find(terms.network, terms.asset)
    if asset is None:
        return Unpayable(Reason.ASSET_UNKNOWN, f"token {_quote(terms.asset)} on {terms.network}")
    if unfit := _transfer_unfit(terms.extra, asset):
        return unfit
    try:
        amount = parse_atomic(terms.amount)
    except ValueError as error:
        return Unpayable(Reason.AMOUNT_INVALID, f"amount {_quote(terms.amount)} is {error}")
    try:
        pay_to = _recipient(terms.pay_to, asset, payer)
    except ValueError as error:
        return Unpayable(Reason.PAY_TO_INVALID, f"payTo {_quote(terms.pay_to)}: {error}")
    timeout = terms.max_timeout_seconds
    if not _is_int(timeout) or timeout <= 0:
        return Unpayable(Reason.TIMEOUT_INVALID, f"maxTimeoutSeconds {_quote(timeout)}")
    cost = usd_micros(amount, asset.decimals, asset.usd_per_token)
    return Offer(terms.index, asset, amount, cost, pay_to, timeout)


def _transfer_unfit(extra: Mapping[str, Any], asset: Asset) -> Unpayable | None:
    method = extra.get("assetTransferMethod", TransferMethod.EIP3009)
    if method != TransferMethod.EIP3009 or asset.method is not TransferMethod.EIP3009:
        wanted = method if method != TransferMethod.EIP3009 else asset.method
        return Unpayable(Reason.TRANSFER_METHOD_UNSUPPORTED, f"transfer method {_quote(wanted)} for {asset}")
    flow = extra.get("paymentFlow", "authorization")
    if flow != "authorization":
        return Unpayable(Reason.PAYMENT_FLOW_UNSUPPORTED, f"paymentFlow {_quote(flow)}")
    for member, ours in (("name", asset.eip712_name), ("version", asset.eip712_version)):
        if extra.get(member, ours) != ours:
            theirs = _quote(extra[member])
            return Unpayable(Reason.ASSET_MISMATCH, f"EIP-712 {member} of {asset} is {ours!r}, not {theirs}")
    return None


def _recipient(text: str, asset: Asset, payer: str) -> str:
    pay_to = parse_address(text)
    if pay_to == ZERO_ADDRESS:
        raise ValueError("the zero address")
    if pay_to.lower() == asset.address.lower():
        raise ValueError("the token's own contract")
    if pay_to.lower() == payer.lower():
        raise ValueError("our own wallet")
    return pay_to


def _string(entry: Mapping[str, Any], member: str) -> str:
    value = entry.get(member)
    if not isinstance(value, str):
        raise ValueError(f"{member} is {'missing' if value is None else 'not a string'}")
    return value


def _extra(value: object, version: int) -> Mapping[str, Any]:
    if version == 1 and isinstance(value, str):  # official v1 servers may send it as JSON text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("extra is not JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("extra is not an object")
    return value


def _recordable(value: object) -> str | int:
    """A seller's value as the ledger can hold it: a small integer as it is, everything else as printable text, which
    no control character makes six times as long."""
    if _is_int(value) and abs(value) < 2**53:
        return value
    text = value if isinstance(value, str) else repr(value)[: 2 * _CLIP]
    return (
        text
        if text.isascii() and text.isprintable() and len(text) <= _CLIP
        else ascii(text[:_CLIP])[1:-1][:_CLIP]
    )


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _quote(value: object) -> str:
    """A seller's text for a message: escaped and clipped, so that it can neither flood nor forge a log."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return ascii(text[:_CLIP])
