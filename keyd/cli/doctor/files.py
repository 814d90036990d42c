"""Owners and modes of files and folders: who could read a secret, or change what is paid."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyd.cli.doctor.accounts import EGRESS, KEYD
from keyd.cli.doctor.findings import Finding, Level, fault, good, note, skipped
from keyd.config import Settings

SETUP: Final = "run osmoda-setup as root"
SETUP_BY_HAND: Final = "make a key as docs/nixos.md says, then systemctl restart osmoda-keyd"
"""Where there is no osmoda-setup: on NixOS the module does the rest of it."""
AS_ROOT: Final = "run keyctl doctor as root"
LITTLE_BYTES: Final = 256 * 1024 * 1024  # months of entries; a ledger of 10,000 payments takes some 40 MB
_LOST_KEY: Final = (
    "put it back from a copy of this machine's own; as long as keyd still runs, keyctl backup FILE saves the wallets "
    "without it (docs/custody.md)"
)
"""osmoda-setup makes no new key beside wallets, which it could not open."""
NO_BYTES: Final = 16 * 1024 * 1024  # SQLite's log alone may grow by 4 MB before it is folded in


@dataclass(frozen=True, slots=True)
class Expected:
    """How a file or folder should be. `may`: the permission bits that it may have, others are too many."""

    path: Path
    owner: str
    may: int
    otherwise: str
    """How to make it if it is missing; empty: it need not be there."""
    level: Level = Level.FAULT
    """How bad it is if others have more rights."""


def installation(
    settings: Settings, egress_state: Path, folder: Path, credential: Path, setup: str = SETUP
) -> list[Expected]:
    """What docs/install.md puts where. `folder`: that of the configuration files. `setup`: how key and state are made."""
    state = settings.state_dir
    key = (
        Expected(credential, "root", 0o600, _LOST_KEY if _wallets(settings.wallet_dir) else setup)
        if settings.kek_file is None
        else Expected(settings.kek_file, KEYD, 0o600, "run keyctl init as keyd's user")
    )
    return [
        Expected(folder, "root", 0o755, "install osmoda-x402 anew"),
        Expected(folder / "keyd.toml", "root", 0o644, ""),
        Expected(folder / "egress.toml", "root", 0o644, ""),
        # URLs of RPC servers are often the key to a paid account.
        Expected(folder / "reconcile.toml", "root", 0o640, "", level=Level.NOTE),
        key,
        Expected(state, KEYD, 0o700, setup),
        Expected(settings.ledger_file, KEYD, 0o600, setup),
        Expected(settings.wallet_dir, KEYD, 0o700, setup),
        *(Expected(path, KEYD, 0o600, "") for path in _wallets(settings.wallet_dir)),
        Expected(egress_state, EGRESS, 0o755, "systemctl restart osmoda-egress"),
        Expected(egress_state / "ca", EGRESS, 0o700, "systemctl restart osmoda-egress"),
    ]


def check_files(
    expected: Iterable[Expected], owner: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name
) -> Iterator[Finding]:
    """Every file that is not as it should be; one line if all are."""
    findings = [finding for one in expected if (finding := _check(one, owner))]
    yield from findings or [good("files", "owners and modes are as they should be")]


def _check(one: Expected, owner: Callable[[int], str]) -> Finding | None:
    try:
        status = one.path.stat()
    except FileNotFoundError:
        return fault("files", f"{one.path} is missing", one.otherwise) if one.otherwise else None
    except OSError as error:
        return skipped("files", f"{one.path}: {(error.strerror or 'unreadable').lower()}", AS_ROOT)
    mode = stat.S_IMODE(status.st_mode)
    name = _owner_name(status.st_uid, owner)
    if name != one.owner:
        whose = f"{one.path} belongs to {name}, not to {one.owner}"
        return fault("files", whose, f"chown {one.owner}: {one.path}")
    if too_many := mode & ~one.may:
        what = f"{one.path} has mode {mode:04o}: {_words(too_many)}"
        remedy = f"chmod {one.may & mode:04o} {one.path}"
        return fault("files", what, remedy) if one.level is Level.FAULT else note("files", what, remedy)
    return None


def check_space(
    folder: Path, free: Callable[[Path], int] = lambda path: _free_bytes(path)
) -> Iterator[Finding]:
    """Room for the ledger: without it nothing is paid, since no payment goes unrecorded."""
    try:
        left = free(folder)
    except FileNotFoundError:  # reported with the files
        return
    except OSError as error:
        yield skipped("space", f"{folder}: {(error.strerror or 'unreadable').lower()}", AS_ROOT)
        return
    said = f"{left // (1024 * 1024)} MiB free for {folder}"
    remedy = "make room on that file system; nothing is paid while an entry cannot be written"
    if left < NO_BYTES:
        yield fault("space", said, remedy)
    elif left < LITTLE_BYTES:
        yield note("space", said, remedy)
    else:
        yield good("space", said)


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _wallets(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError:  # the folder itself is reported
        return []


def _owner_name(uid: int, owner: Callable[[int], str]) -> str:
    try:
        return owner(uid)
    except KeyError:
        return f"uid {uid}"


def _words(bits: int) -> str:
    may = [
        (0o004, "everybody can read it"),
        (0o002, "everybody can change it"),
        (0o040, "its group can read it"),
        (0o020, "its group can change it"),
    ]
    return ", ".join(words for bit, words in may if bits & bit) or f"{bits:04o} is too much"
