"""The key-encryption key (KEK): 32 bytes that wrap every wallet, from a systemd credential or a file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keyd.files import make_private_directory, write_private
from keyd.secret import Secret

CREDENTIAL: Final = "kek"
_MISSING: Final = {
    b"missing": "run `osmoda-setup` as root, which makes one for this machine",
    b"missing-nixos": "make one for this machine, as docs/nixos.md says",
}
"""SetCredential= of osmoda-keyd.service, as long as there is no credential → the way out."""
_HEX: Final = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")


class KekError(Exception):
    """The key cannot be had; `hint` is the way out."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def load(kek_file: Path | None, environment: Mapping[str, str]) -> Secret:
    """The key of `kek_file`, or else of the systemd credential `kek`. Raises KekError."""
    if kek_file is not None:
        return _read(kek_file, must_be_private=True)
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise KekError(
            "there is no key-encryption key: kek_file is not set and systemd passed no credential",
            f"set kek_file in keyd.toml and run `keyctl init`, or give the unit LoadCredential={CREDENTIAL}:…",
        )
    return _read(Path(folder) / CREDENTIAL, must_be_private=False)


def create(kek_file: Path, key: bytes) -> bool:
    """Writes a new key as hex; False if the file exists, which is then left alone."""
    if kek_file.exists():
        return False
    make_private_directory(kek_file.parent)
    write_private(kek_file, key.hex().encode() + b"\n")
    return True


def _read(path: Path, *, must_be_private: bool) -> Secret:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(256)
    except FileNotFoundError:
        raise KekError(
            f"{path}: no such file", "run `keyctl init` to create the key-encryption key"
        ) from None
    except OSError as error:
        raise KekError(f"{path}: {error.strerror}", "keyd's user must be able to read this file") from None
    if must_be_private and mode & 0o077:
        raise KekError(
            f"{path} can be read by others (mode {mode:04o})",
            f"run `chmod 600 {path}`; if others may have read it, make a new key and new wallets",
        )
    if content in _MISSING:
        raise KekError("there is no key-encryption key yet", _MISSING[content])
    if len(content) == 32:
        return Secret(content)
    match = _HEX.fullmatch(content)
    if match is None:
        raise KekError(f"{path} holds no key", "it must hold 32 bytes, raw or as 64 hex digits")
    return Secret(bytes.fromhex(match.group(1).decode()))
