"""Writing files so that a crash leaves the old one or the new one, and nobody else can read a secret."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

_TEMPORARY: Final = re.compile(r"\.(.+)\.[0-9a-f]{16}", re.DOTALL)
"""What `write_private` writes to first."""


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Durably writes `data` to `path` with mode 0600. Raises FileExistsError unless `replace`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike rename, fails if the name is taken
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sweep_temporary(folder: Path, name: str | None = None) -> None:
    """Removes what a crash in `write_private` left in `folder`; for the file `name` alone, where others keep files too.

    Raises OSError.
    """
    for path in folder.glob(".*"):
        left = _TEMPORARY.fullmatch(path.name)
        if left and left[1] == (name or left[1]) and path.is_file():
            path.unlink(missing_ok=True)


def make_private_directory(path: Path) -> bool:
    """Creates `path` (and its parents) with mode 0700; True if it was not there."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(20, "exists and is not a folder", str(path)) from None
        return False
    return True


def sync_directory(path: Path) -> None:
    """Makes the names in a folder durable: without it, a new file may vanish in a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
