"""Wallet files: one per label, the private key wrapped with AES-256-GCM under the key-encryption key.

Label, address and version are authenticated with the key: a file that was renamed, edited or swapped with
another wallet's does not open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import coincurve
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyd.evm import address_of
from keyd.files import make_private_directory, write_private
from keyd.secret import Secret

VERSION: Final = 1
_NONCE_BYTES: Final = 12
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


class WalletMissing(Exception):
    """No wallet has this label."""


class WalletExists(Exception):
    """The label is taken; a wallet is never overwritten."""


class WalletUnreadable(Exception):
    """The file is damaged, swapped, or wrapped under another key."""


@dataclass(frozen=True, slots=True)
class WalletInfo:
    """What may be shown of a wallet. `created_at` in Unix seconds."""

    label: str
    address: str
    created_at: int


class Payer:
    """An opened wallet: knows its address and signs 32-byte digests made by `keyd.eip3009`."""

    __slots__ = ("_key", "address", "label")

    def __init__(self, label: str, key: Secret) -> None:
        self.label = label
        self._key = coincurve.PrivateKey(key.reveal())
        self.address = address_of(self._key.public_key.format(compressed=False))

    def sign(self, digest: bytes) -> str:
        """65 bytes r, s, v as 0x-hex. Deterministic (RFC 6979): the same digest gives the same bytes, always."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return "0x" + (signature[:64] + bytes([27 + signature[64]])).hex()

    def __repr__(self) -> str:
        return f"Payer({self.label!r}, {self.address})"


class Keystore:
    """The wallets of one state folder."""

    def __init__(self, folder: Path, kek: Secret, entropy: Callable[[int], bytes]) -> None:
        self._folder = folder
        self._kek = kek
        self._entropy = entropy

    def create(self, label: str, now_s: int) -> WalletInfo:
        """A new wallet with a random key. Raises WalletExists."""
        key = self._entropy(32)
        while not _is_private_key(key):  # happens once in 2**127 times
            key = self._entropy(32)
        return self.store(label, Secret(key), now_s)

    def store(self, label: str, key: Secret, now_s: int) -> WalletInfo:
        """Wraps and durably writes `key`. Raises WalletExists, ValueError if it is not a private key."""
        if not _is_private_key(key.reveal()):
            raise ValueError("not a secp256k1 private key")
        info = WalletInfo(label, Payer(label, key).address, now_s)
        nonce = self._entropy(_NONCE_BYTES)
        sealed = AESGCM(self._kek.reveal()).encrypt(nonce, key.reveal(), _associated_data(info))
        document = {
            "version": VERSION,
            "label": label,
            "address": info.address,
            "created_at": now_s,
            "cipher": "AES-256-GCM",
            "nonce": nonce.hex(),
            "ciphertext": sealed.hex(),
        }
        make_private_directory(self._folder)
        try:
            write_private(self._path(label), json.dumps(document, indent=1).encode() + b"\n")
        except FileExistsError:
            raise WalletExists(label) from None
        return info

    def open(self, label: str) -> Payer:
        """Raises WalletMissing or WalletUnreadable."""
        info, document = self._read(label)
        try:
            nonce, sealed = bytes.fromhex(document["nonce"]), bytes.fromhex(document["ciphertext"])
            key = AESGCM(self._kek.reveal()).decrypt(nonce, sealed, _associated_data(info))
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise WalletUnreadable(
                f"wallet {label!r} does not open: it was changed, or sealed under another key"
            ) from None
        payer = Payer(label, Secret(key))
        if payer.address != info.address:  # cannot happen while the tag holds; never pay from a surprise
            raise WalletUnreadable(f"wallet {label!r} holds the key of another address")
        return payer

    def list(self) -> list[WalletInfo]:
        """Every wallet whose file can be read, by label. Nothing is decrypted."""
        labels = sorted(path.stem for path in self._folder.glob("*.json") if _LABEL.fullmatch(path.stem))
        return [self._read(label)[0] for label in labels]

    def _read(self, label: str) -> tuple[WalletInfo, dict[str, Any]]:
        try:
            document = json.loads(self._path(label).read_bytes())
        except FileNotFoundError:
            raise WalletMissing(label) from None
        except (OSError, ValueError) as error:
            raise WalletUnreadable(f"wallet {label!r}: {error}") from None
        try:
            if document["version"] != VERSION or document["label"] != label:
                raise WalletUnreadable(f"wallet {label!r}: the file is of another wallet or version")
            return WalletInfo(label, str(document["address"]), int(document["created_at"])), document
        except (KeyError, TypeError, ValueError):
            raise WalletUnreadable(f"wallet {label!r}: the file is damaged") from None

    def _path(self, label: str) -> Path:
        if _LABEL.fullmatch(label) is None:  # a label from the configuration is a file name, too
            raise WalletMissing(label)
        return self._folder / f"{label}.json"


def parse_private_key(text: str) -> Secret:
    """A key in hex, with or without 0x. Raises ValueError without quoting it."""
    digits = text.strip().removeprefix("0x")
    if re.fullmatch(r"[0-9a-fA-F]{64}", digits, re.ASCII) is None:
        raise ValueError("a private key is 64 hex digits")
    key = bytes.fromhex(digits)
    if not _is_private_key(key):
        raise ValueError("not a secp256k1 private key")
    return Secret(key)


def _is_private_key(key: bytes) -> bool:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    return len(key) == 32 and 0 < int.from_bytes(key, "big") < order


def _associated_data(info: WalletInfo) -> bytes:
    fields = {"address": info.address, "label": info.label, "version": VERSION}
    return b"osmoda-wallet/v1\n" + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
