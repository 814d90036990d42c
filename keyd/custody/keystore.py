"""Wallet files: one per label, the private key sealed with AES-256-GCM under the key-encryption key (KEK).

Label, address and version are authenticated with the key: a file that was renamed, edited or swapped with
another wallet's does not open.

While the KEK is being changed a file holds the same key more than once, sealed under each KEK, the oldest first
(docs/adr/0012). What may be signed with which wallet is decided by the record, in `keyd.custody.wallets`.
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

from keyd.core.evm import address_of
from keyd.custody.kek import Kek
from keyd.custody.secret import Secret
from keyd.files import make_private_directory, sweep_temporary, write_private

VERSION: Final = 2
_NONCE_BYTES: Final = 12
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_ASSOCIATED: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class WalletMissing(Exception):
    """No wallet has this label."""


class WalletExists(Exception):
    """The label is taken; a wallet is never overwritten."""


class WalletUnreadable(Exception):
    """The file is damaged, swapped, or sealed under another key."""


@dataclass(frozen=True, slots=True)
class WalletInfo:
    """What may be shown of a wallet. `created_at` in Unix seconds."""

    label: str
    address: str
    created_at: int


class Payer:
    """An opened wallet: knows its address and signs 32-byte digests made by `keyd.core.eip3009` and `keyd.core.siwe`."""

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


@dataclass(frozen=True, slots=True)
class _File:
    """A wallet file as read. `seals`: KEK id → (nonce, ciphertext), the oldest KEK first."""

    info: WalletInfo
    seals: dict[str, tuple[bytes, bytes]]

    @classmethod
    def from_json(cls, label: str, content: bytes) -> _File:
        """Raises WalletUnreadable."""
        try:
            document: dict[str, Any] = json.loads(content)
            if document["version"] != VERSION or document["label"] != label:
                raise WalletUnreadable(f"wallet {label!r}: the file is of another wallet or version")
            info = WalletInfo(label, str(document["address"]), int(document["created_at"]))
            seals = {
                str(seal["kek"]): (bytes.fromhex(seal["nonce"]), bytes.fromhex(seal["ciphertext"]))
                for seal in document["seals"]
            }
        except (KeyError, TypeError, ValueError, RecursionError):
            raise WalletUnreadable(f"wallet {label!r}: the file is damaged") from None
        return cls(info, seals)

    def to_json(self) -> bytes:
        document = {
            "version": VERSION,
            "label": self.info.label,
            "address": self.info.address,
            "created_at": self.info.created_at,
            "cipher": "AES-256-GCM",
            "seals": [
                {"kek": kek, "nonce": nonce.hex(), "ciphertext": sealed.hex()}
                for kek, (nonce, sealed) in self.seals.items()
            ],
        }
        return json.dumps(document, indent=1).encode() + b"\n"


class Keystore:
    """The wallets of one state folder. `kek` is the one in force; `pending` are newer ones, which may become it."""

    def __init__(self, folder: Path, kek: Kek, entropy: Callable[[int], bytes]) -> None:
        self._folder = folder
        self._entropy = entropy
        self.kek = kek
        self.pending: tuple[Kek, ...] = ()

    # -- one wallet ---------------------------------------------------------------------------------------

    def create(self, label: str, now_s: int) -> WalletInfo:
        """A new wallet with a random key. Raises WalletExists."""
        key = self._entropy(32)
        while not _is_private_key(key):  # happens once in 2**127 times
            key = self._entropy(32)
        return self.store(label, Secret(key), now_s)

    def store(self, label: str, key: Secret, now_s: int) -> WalletInfo:
        """Seals and durably writes `key`. Raises WalletExists, ValueError if it is not a private key."""
        if not _is_private_key(key.reveal()):
            raise ValueError("not a secp256k1 private key")
        info = WalletInfo(label, Payer(label, key).address, now_s)
        file = _File(info, {kek.id: self._seal(kek, info, key) for kek in (self.kek, *self.pending)})
        make_private_directory(self._folder)
        try:
            write_private(self._path(label), file.to_json())
        except FileExistsError:
            raise WalletExists(label) from None
        return info

    def open(self, label: str) -> Payer:
        """Decrypts the key, in 0.1 ms, for whoever asked: nothing keeps it. Raises WalletMissing, WalletUnreadable."""
        return self._open(self._read(label))[0]

    def reveal(self, label: str) -> tuple[str, Secret]:
        """Address and the private key itself, for export. Raises WalletMissing or WalletUnreadable."""
        payer, key = self._open(self._read(label))
        return payer.address, key

    def infos(self) -> tuple[list[WalletInfo], dict[str, str]]:
        """Every wallet whose file can be read, and what is wrong with each other, by label. Nothing is decrypted."""
        found: list[WalletInfo] = []
        damaged: dict[str, str] = {}
        for label in self.labels():
            try:
                found.append(self._read(label).info)
            except WalletUnreadable as error:
                damaged[label] = str(error)
            except WalletMissing:  # removed a moment ago
                continue
        return found, damaged

    def labels(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json") if _LABEL.fullmatch(path.stem))

    def files(self) -> list[Path]:
        """The wallet files, damaged ones as well."""
        return [self._path(label) for label in self.labels()]

    def sweep(self) -> None:
        """Removes temporary files that a crash left behind; each holds no more than a wallet file does."""
        sweep_temporary(self._folder)

    # -- all wallets, under another KEK -------------------------------------------------------------------

    def add_seal(self, label: str, kek: Kek) -> None:
        """From now on the wallet opens under `kek` too. Raises WalletMissing or WalletUnreadable."""
        file = self._read(label)
        if kek.id not in file.seals:
            seal = self._seal(kek, file.info, self._open(file)[1])
            self._replace(_File(file.info, file.seals | {kek.id: seal}))

    def drop_older_seals(self, label: str) -> None:
        """The wallet opens no longer under a KEK older than the one in force. Raises as `open` does.

        Newer ones stay: their KEK may be put in force at any moment, by somebody whom keyd does not see.
        """
        file = self._read(label)
        self._open(file)
        ids = list(file.seals)
        kept = ids[ids.index(self.kek.id) :]
        if kept != ids:
            self._replace(_File(file.info, {kek: file.seals[kek] for kek in kept}))

    def kek_ids(self, label: str) -> list[str]:
        """Ids of the KEKs that open the wallet, the oldest first. Raises WalletMissing or WalletUnreadable."""
        return list(self._read(label).seals)

    # -- the file -----------------------------------------------------------------------------------------

    def _seal(self, kek: Kek, info: WalletInfo, key: Secret) -> tuple[bytes, bytes]:
        nonce = self._entropy(_NONCE_BYTES)
        return nonce, AESGCM(kek.reveal()).encrypt(nonce, key.reveal(), _associated_data(info))

    def _open(self, file: _File) -> tuple[Payer, Secret]:
        label, kek = file.info.label, self.kek  # once: a change of keys may put another in force meanwhile
        try:
            nonce, sealed = file.seals[kek.id]
            key = Secret(AESGCM(kek.reveal()).decrypt(nonce, sealed, _associated_data(file.info)))
        except KeyError:
            raise WalletUnreadable(
                f"wallet {label!r} is sealed under key {', '.join(file.seals) or '(none)'}, not under {kek.id}"
            ) from None
        except (InvalidTag, ValueError):
            raise WalletUnreadable(f"wallet {label!r} does not open: it was changed") from None
        payer = Payer(label, key)
        if payer.address != file.info.address:  # cannot happen while the tag holds; never pay from a surprise
            raise WalletUnreadable(f"wallet {label!r} holds the key of another address")
        return payer, key

    def _read(self, label: str) -> _File:
        try:
            with open(self._path(label), "rb", buffering=0) as file:
                content = file.readall()
        except FileNotFoundError:
            raise WalletMissing(label) from None
        except OSError as error:
            raise WalletUnreadable(f"wallet {label!r}: {error.strerror}") from None
        return _File.from_json(label, content)

    def _replace(self, file: _File) -> None:
        write_private(self._path(file.info.label), file.to_json(), replace=True)

    def _path(self, label: str) -> Path:
        if _LABEL.fullmatch(label) is None:  # a label from the configuration is a file name, too
            raise WalletMissing(label)
        return Path(f"{self._folder}/{label}.json")


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
    return b"osmoda-wallet/v2\n" + _ASSOCIATED.encode(fields).encode()
