"""The key-encryption key (KEK): 32 bytes that seal every wallet.

It comes from a systemd credential, or from `kek_file`: as hex, for trying out, or sealed under a passphrase.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyd.custody import scrypt
from keyd.custody.secret import Secret
from keyd.files import make_private_directory, sweep_temporary, write_private

CREDENTIAL: Final = "kek"
PASSPHRASE_CREDENTIAL: Final = "kek-passphrase"  # noqa: S105 - its name
KEK_BYTES: Final = 32
_MISSING: Final = {
    b"missing": "run `osmoda-setup` as root, which makes one for this machine",
    b"missing-nixos": "make one for this machine, as docs/nixos.md says",
}
"""SetCredential= of osmoda-keyd.service, as long as there is no credential → the way out."""
_HEX: Final = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")
_MAX_FILE: Final = 4096
_CONTEXT: Final = b"osmoda-kek/v1\n"


class KekError(Exception):
    """The key cannot be had; `hint` is the way out."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class KekMissing(KekError):
    """There is none where it should be; `hint` is for a machine that never had one."""


class Kek(Secret):
    """A KEK and its name."""

    __slots__ = ("id",)

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self.id = hmac.digest(value, b"osmoda-kek-id/v1", "sha256")[:8].hex()
        """16 hex digits that name this key in wallet files and in the ledger, and say nothing about it."""


class Kind(StrEnum):
    """Where the KEK comes from."""

    CREDENTIAL = "credential"
    FILE = "file"
    PASSPHRASE = "passphrase"  # noqa: S105 - the name of a source
    """A file, too, but sealed under a passphrase."""


@dataclass(frozen=True, slots=True)
class Source:
    """The KEK in force, and what a new one would have to replace."""

    kek: Kek
    kind: Kind
    file: Path | None

    def replace(self, kek: Kek, passphrase: str | None, entropy: Callable[[int], bytes]) -> None:
        """From this instant on, the next start gets `kek`. For files alone: a credential is root's to replace."""
        assert self.file is not None  # `Custody.rotate` asks for the kind first
        write_private(self.file, _content(kek, passphrase, entropy), replace=True)

    def sweep(self) -> None:
        """Removes the copy of a key that a crash in `replace` left. For who holds the ledger's lock: no other keyd
        replaces anything now."""
        if self.file is not None:
            with suppress(OSError):  # in a folder that is not keyd's any more; paying does not depend on it
                sweep_temporary(self.file.parent, self.file.name)


def load(
    kek_file: Path | None, environment: Mapping[str, str], ask: Callable[[], str] | None = None
) -> Source:
    """The key of `kek_file`, or else of the systemd credential `kek`. Raises KekError.

    `ask` gives the passphrase if the file is sealed under one.
    """
    if kek_file is None:
        folder = environment.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise KekError(
                "there is no key-encryption key: kek_file is not set and systemd passed no credential",
                f"set kek_file in keyd.toml and run `osmoda-keyctl init`, or give the unit LoadCredential={CREDENTIAL}:…",
            )
        path = Path(folder) / CREDENTIAL
        return Source(_plain(path, _read(path, must_be_private=False)), Kind.CREDENTIAL, None)
    content = _read(kek_file, must_be_private=True)
    if len(content) == KEK_BYTES or not content.lstrip().startswith(b"{"):
        return Source(_plain(kek_file, content), Kind.FILE, kek_file)
    if ask is None:
        raise KekError(f"{kek_file} is sealed under a passphrase", "start keyd where it can be asked for")
    return Source(_unsealed(kek_file, content, ask()), Kind.PASSPHRASE, kek_file)


def id_of_credential(content: bytes) -> str | None:
    """The id of the key in a decrypted credential; None if it holds none."""
    try:
        return _plain(Path(CREDENTIAL), content).id
    except KekError:
        return None


def create(
    kek_file: Path, entropy: Callable[[int], bytes], passphrase: Callable[[], str] | None = None
) -> bool:
    """Writes a new key, sealed if there is a passphrase; False if the file exists, which is then left alone."""
    if kek_file.exists():
        return False
    content = _content(Kek(entropy(KEK_BYTES)), None if passphrase is None else passphrase(), entropy)
    make_private_directory(kek_file.parent)
    write_private(kek_file, content)
    return True


def _content(kek: Kek, passphrase: str | None, entropy: Callable[[int], bytes]) -> bytes:
    if passphrase is None:
        return kek.reveal().hex().encode() + b"\n"
    salt, nonce = entropy(scrypt.SALT_BYTES), entropy(12)
    sealed = AESGCM(scrypt.derive(passphrase, salt, n=scrypt.N)).encrypt(nonce, kek.reveal(), _CONTEXT)
    document = {
        "version": 1,
        "kdf": {"name": "scrypt", "n": scrypt.N, "r": scrypt.R, "p": scrypt.P, "salt": salt.hex()},
        "cipher": "AES-256-GCM",
        "nonce": nonce.hex(),
        "ciphertext": sealed.hex(),
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _unsealed(path: Path, content: bytes, passphrase: str) -> Kek:
    damaged = KekError(f"{path} is damaged", "restore it from a backup: it alone opens the wallets")
    try:
        document: dict[str, Any] = json.loads(content)
        kdf = document["kdf"]
        if (document["version"], kdf["name"], kdf["r"], kdf["p"]) != (1, "scrypt", scrypt.R, scrypt.P):
            raise damaged
        key = scrypt.derive(passphrase, bytes.fromhex(kdf["salt"]), n=int(kdf["n"]))
        nonce, sealed = bytes.fromhex(document["nonce"]), bytes.fromhex(document["ciphertext"])
        opened = AESGCM(key).decrypt(nonce, sealed, _CONTEXT)
    except InvalidTag:
        raise KekError(
            f"the passphrase does not open {path}", "try again; without it the wallets stay closed"
        ) from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise damaged from None
    return Kek(opened)


def _plain(path: Path, content: bytes) -> Kek:
    if content in _MISSING:
        raise KekMissing("there is no key-encryption key yet", _MISSING[content])
    if len(content) == KEK_BYTES:
        return Kek(content)
    match = _HEX.fullmatch(content)
    if match is None:
        raise KekError(f"{path} holds no key", "it must hold 32 bytes, raw or as 64 hex digits")
    return Kek(bytes.fromhex(match.group(1).decode()))


def _read(path: Path, *, must_be_private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_FILE)
    except FileNotFoundError:
        raise KekMissing(
            f"{path}: no such file", "run `osmoda-keyctl init` to create the key-encryption key"
        ) from None
    except OSError as error:
        raise KekError(f"{path}: {error.strerror}", "keyd's user must be able to read this file") from None
    if must_be_private and mode & 0o077:
        raise KekError(
            f"{path} can be read by others (mode {mode:04o})",
            f"run `chmod 600 {path}`; if others may have read it, change it: `osmoda-keyctl wallet rotate-kek`",
        )
    return content
