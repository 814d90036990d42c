"""EVM primitives: keccak-256 and addresses (EIP-55)."""

from __future__ import annotations

import re
from functools import lru_cache

from Crypto.Hash import keccak

ZERO_ADDRESS = "0x" + "0" * 40

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


def keccak256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


@lru_cache(maxsize=1024)  # the recipients of a day; a seller that invents new ones pushes out the oldest
def checksum_address(address: str) -> str:
    """The EIP-55 spelling of a 20-byte hex address. Raises ValueError if it is not one."""
    if _ADDRESS.fullmatch(address) is None:
        raise ValueError(f"{address[:60]!r} is not 0x and 40 hex digits")
    digits = address[2:].lower()
    nibbles = keccak256(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(n, 16) >= 8 else d for d, n in zip(digits, nibbles, strict=False))


def parse_address(address: object) -> str:
    """An address from outside, in EIP-55 spelling. Raises ValueError; mixed case must carry the right checksum."""
    if not isinstance(address, str):
        raise ValueError("not a string")
    checksummed = checksum_address(address)
    digits = address[2:]
    if digits not in (digits.lower(), digits.upper()) and address != checksummed:
        raise ValueError(f"{address} has a wrong EIP-55 checksum")
    return checksummed


@lru_cache(maxsize=1024)  # our wallets, and the sellers whose signatures were verified last
def address_of(public_key: bytes) -> str:
    """EIP-55 address of an uncompressed secp256k1 public key (65 bytes, leading 0x04)."""
    return checksum_address("0x" + keccak256(public_key[1:])[-20:].hex())
