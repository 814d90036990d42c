"""The key that signs heads of the ledger: Ed25519, in its own file beside the ledger, sealed like a wallet.

It signs nothing but heads. Whoever steals it can forge the past of this ledger, and cannot move money.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyd.custody.kek import Kek
from keyd.custody.secret import Secret
from keyd.files import write_private
from ledger import note
from ledger.errors import LedgerError
from ledger.note import Checkpoint, Key

VERSION: Final = 1
_NONCE_BYTES: Final = 12
_ORIGIN: Final = "osmoda-ledger/"

type _Seals = Mapping[str, tuple[bytes, bytes]]
"""KEK id → (nonce, ciphertext), the oldest KEK first."""


class HeadKey:
    """Signs checkpoints of one ledger. Its name, which is the ledger's origin, follows from the public key."""

    __slots__ = ("_private", "key")

    def __init__(self, seed: Secret) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        public = self._private.public_key().public_bytes_raw()
        self.key = Key(_ORIGIN + hashlib.sha256(public).hexdigest()[:16], public)

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note of `checkpoint`."""
        return note.signed(checkpoint, self.key, self._private.sign(checkpoint.text().encode()))

    def __repr__(self) -> str:
        return f"HeadKey({self.key})"


class HeadKeyFile:
    """Where the key is kept. While the KEK is being changed it is sealed under both (docs/adr/0012).

    Methods raise LedgerError if the key does not open, and OSError.
    """

    def __init__(self, path: Path, entropy: Callable[[int], bytes]) -> None:
        self._path = path
        self._entropy = entropy

    def load_or_create(self, kek: Kek) -> HeadKey:
        """The key; a new one if there is no such file."""
        try:
            return HeadKey(self._open(kek)[0])
        except FileNotFoundError:
            seed = Secret(self._entropy(32))
            write_private(self._path, _document(seed, {kek.id: self._seal(seed, kek)}))
            return HeadKey(seed)

    def add_seal(self, kek: Kek, new: Kek) -> None:
        """What opens under `kek` from now on opens under `new` too."""
        seed, seals = self._open(kek)
        if new.id not in seals:
            self._replace(seed, {**seals, new.id: self._seal(seed, new)})

    def drop_older_seals(self, kek: Kek) -> None:
        """The key opens no longer under a KEK older than `kek`, the one in force."""
        seed, seals = self._open(kek)
        kept = list(seals)[list(seals).index(kek.id) :]
        if len(kept) < len(seals):
            self._replace(seed, {id_: seals[id_] for id_ in kept})

    def _open(self, kek: Kek) -> tuple[Secret, _Seals]:
        content = self._path.read_bytes()
        hint = (
            "restore it from a backup; or move it away with ledger.heads, and the next start makes a new key"
        )
        try:
            document: dict[str, Any] = json.loads(content)
            seals = {
                str(seal["kek"]): (bytes.fromhex(seal["nonce"]), bytes.fromhex(seal["ciphertext"]))
                for seal in document["seals"]
            }
            if document["version"] != VERSION:
                raise LedgerError(f"{self._path} is of another version", "use the osmoda-x402 that wrote it")
            if kek.id not in seals:
                raise LedgerError(
                    f"{self._path} is sealed under key-encryption key {', '.join(seals) or 'none'}, and keyd was given {kek.id}",
                    "start keyd with the key that it had (docs/custody.md), or restore a backup",
                )
            nonce, sealed = seals[kek.id]
            opened = AESGCM(kek.reveal()).decrypt(nonce, sealed, _associated_data(str(document["name"])))
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise LedgerError(f"{self._path} does not open: it was changed", hint) from None
        return Secret(opened), seals

    def _seal(self, seed: Secret, kek: Kek) -> tuple[bytes, bytes]:
        nonce = self._entropy(_NONCE_BYTES)
        aad = _associated_data(HeadKey(seed).key.name)
        return nonce, AESGCM(kek.reveal()).encrypt(nonce, seed.reveal(), aad)

    def _replace(self, seed: Secret, seals: _Seals) -> None:
        write_private(self._path, _document(seed, seals), replace=True)


def _document(seed: Secret, seals: _Seals) -> bytes:
    document = {
        "version": VERSION,
        "name": HeadKey(seed).key.name,
        "cipher": "AES-256-GCM",
        "seals": [
            {"kek": kek, "nonce": nonce.hex(), "ciphertext": sealed.hex()}
            for kek, (nonce, sealed) in seals.items()
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _associated_data(name: str) -> bytes:
    fields = {"name": name, "version": VERSION}
    return b"osmoda-ledger-key/v1\n" + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
