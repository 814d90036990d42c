"""EIP-3009 `transferWithAuthorization`: the structured data and its EIP-712 digest, built here and nowhere else.

Pure: the nonce and the time are arguments. keyd signs only digests that this module made from an
`Authorization` of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from keyd.core.assets import Asset
from keyd.core.evm import keccak256
from keyd.core.money import MAX_UINT256

MAX_WINDOW_S: Final = 600
"""Longest life of an authorization, whatever maxTimeoutSeconds says: its budget is held at least as long."""
CLOCK_SKEW_S: Final = 600
"""`validAfter` lies this far in the past, as in the official clients, for chains whose clock is behind ours."""

_DOMAIN_TYPEHASH: Final = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_TRANSFER_TYPEHASH: Final = keccak256(
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)


@dataclass(frozen=True, slots=True)
class Authorization:
    """Parameters of `transferWithAuthorization` (EIP-3009). Times are Unix seconds, `value` is atomic units."""

    from_: str
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes

    def as_json(self) -> dict[str, str]:
        """As the x402 `exact` payload and the ledger spell it: every number a decimal string."""
        return {
            "from": self.from_,
            "to": self.to,
            "value": str(self.value),
            "validAfter": str(self.valid_after),
            "validBefore": str(self.valid_before),
            "nonce": "0x" + self.nonce.hex(),
        }

    @classmethod
    def from_json(cls, fields: dict[str, str]) -> Authorization:
        """The inverse of `as_json`, for authorizations read back from the ledger."""
        return cls(
            from_=fields["from"],
            to=fields["to"],
            value=int(fields["value"]),
            valid_after=int(fields["validAfter"]),
            valid_before=int(fields["validBefore"]),
            nonce=bytes.fromhex(fields["nonce"][2:]),
        )


def authorize(
    *, payer: str, pay_to: str, value: int, window_s: int, nonce: bytes, now_s: int
) -> Authorization:
    """A transfer of `value` atomic units, valid for `window_s` seconds at the most (clamped to MAX_WINDOW_S).

    Raises ValueError for a window that is not positive or a nonce that is not 32 bytes.
    """
    if window_s <= 0:
        raise ValueError("an authorization must be valid for at least a second")
    if len(nonce) != 32:
        raise ValueError("an EIP-3009 nonce has 32 bytes")
    return Authorization(
        from_=payer,
        to=pay_to,
        value=value,
        valid_after=max(0, now_s - CLOCK_SKEW_S),
        valid_before=now_s + min(window_s, MAX_WINDOW_S),
        nonce=nonce,
    )


def digest(authorization: Authorization, asset: Asset) -> bytes:
    """The 32 bytes to sign: keccak256(0x1901 || domainSeparator || hashStruct) (EIP-712)."""
    return keccak256(b"\x19\x01" + domain_separator(asset) + _struct_hash(authorization))


@cache  # one for each row of keyd's own table: nothing from outside makes it grow
def domain_separator(asset: Asset) -> bytes:
    return keccak256(
        _DOMAIN_TYPEHASH
        + keccak256(asset.eip712_name.encode())
        + keccak256(asset.eip712_version.encode())
        + _uint256(asset.chain_id)
        + _address(asset.address)
    )


def _struct_hash(authorization: Authorization) -> bytes:
    return keccak256(
        _TRANSFER_TYPEHASH
        + _address(authorization.from_)
        + _address(authorization.to)
        + _uint256(authorization.value)
        + _uint256(authorization.valid_after)
        + _uint256(authorization.valid_before)
        + authorization.nonce
    )


def _uint256(value: int) -> bytes:
    if not 0 <= value <= MAX_UINT256:
        raise ValueError("out of the range of uint256")
    return value.to_bytes(32, "big")


def _address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])
