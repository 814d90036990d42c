"""Where keyd gets the passphrase of its key-encryption key at start. It is used once and not kept."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from keyd.custody.kek import PASSPHRASE_CREDENTIAL, KekError

_MAX_BYTES: Final = 4096
_HINT: Final = (
    "start keyd on a terminal, hand it over with --passphrase-fd N, or give the unit "
    f"LoadCredential={PASSPHRASE_CREDENTIAL}:… (docs/custody.md)"
)


def ask(descriptor: int | None, environment: Mapping[str, str]) -> str:
    """From the file descriptor, else the systemd credential, else the terminal. Raises KekError."""
    if descriptor is not None:
        return _from_descriptor(descriptor)
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder is not None and (file := Path(folder) / PASSPHRASE_CREDENTIAL).exists():
        return _text(file.read_bytes())
    if sys.stdin.isatty():
        return getpass.getpass("Passphrase of the key-encryption key: ")
    raise KekError("the key-encryption key is under a passphrase, and nobody can be asked for it", _HINT)


def _from_descriptor(descriptor: int) -> str:
    try:
        with os.fdopen(descriptor, "rb") as pipe:
            return _text(pipe.read(_MAX_BYTES))
    except OSError as error:
        raise KekError(
            f"no passphrase on file descriptor {descriptor}: {error.strerror}", "open it for reading"
        ) from None


def _text(content: bytes) -> str:
    """Without the newline that editors and echo put at its end."""
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise KekError("the passphrase is not UTF-8 text", "give it as text") from None
