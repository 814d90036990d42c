"""`keyctl init`: makes what keyd needs before its first start. Safe to repeat; nothing is overwritten."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial

from keyd.config import Settings
from keyd.custody import kek
from keyd.custody import passphrase as passphrases
from keyd.custody.kek import id_of_credential
from keyd.files import make_private_directory
from ledger.errors import LedgerError
from ledger.log import Ledger

__all__ = [
    "SetupError",
    "id_of_credential",
    "initialise",
    "key_in_force",
    "key_of_this_machine",
    "refuse_lost_ledger",
]


class SetupError(Exception):
    """Something could not be made; `hint` is the way out."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def initialise(settings: Settings, passphrase: Callable[[], str] | None = None) -> list[str]:
    """Key-encryption key, state folder, ledger; what was done, a line each. Raises SetupError.

    `passphrase` gives the one to seal a new key under; without it `kek_file` holds the key in the clear.
    """
    try:
        return [_key(settings, passphrase), _folder(settings), _ledger(settings)]
    except OSError as error:
        hint = "run it as the user that keyd runs as, or as root; check the folder's owner and mode"
        raise SetupError(f"{error.filename}: {error.strerror}", hint) from None
    except LedgerError as error:
        raise SetupError(str(error), error.hint) from None


def key_in_force(
    settings: Settings, environment: Mapping[str, str], ask: Callable[[], str] | None = None
) -> kek.Source:
    """What keyd starts with. Raises KekError; where wallets show that there was a key, nobody is told to make one."""
    try:
        return kek.load(settings.kek_file, environment, ask)
    except kek.KekMissing:
        if not _has_wallets(settings):
            raise
        raise kek.KekError(*_lost_key(settings)) from None


def _has_wallets(settings: Settings) -> bool:
    return any(settings.wallet_dir.glob("*.json"))


def _lost_key(settings: Settings) -> tuple[str, str]:
    """What is wrong, and the way out."""
    what = settings.kek_file or f"the credential {kek.CREDENTIAL!r}"
    return (
        f"{what} is missing, but there are wallets that it seals",
        f"put it back: a new key would open none of them. If it is lost, move {settings.state_dir} away and restore a "
        "backup",
    )


def key_of_this_machine(settings: Settings, environment: Mapping[str, str]) -> kek.Kek:
    """The key-encryption key that keyd would start with here; `kek_file` is made if it is missing.

    Raises SetupError, OSError.
    """
    if settings.kek_file is None and "CREDENTIALS_DIRECTORY" not in environment:
        raise SetupError(
            "the key-encryption key is a systemd credential, and this command was not lent it",
            "run it by `systemd-run -p LoadCredentialEncrypted=kek:/etc/osmoda/kek.cred …`: docs/custody.md shows how",
        )
    try:
        if settings.kek_file is not None:
            kek.create(settings.kek_file, secrets.token_bytes)
        ask = partial(passphrases.ask, None, environment)
        return kek.load(settings.kek_file, environment, ask).kek
    except kek.KekError as error:
        raise SetupError(str(error), error.hint) from None


def _key(settings: Settings, passphrase: Callable[[], str] | None) -> str:
    if settings.kek_file is None:
        if passphrase is not None:
            raise SetupError(
                "a key under a passphrase is kept in a file, and kek_file is not set",
                "set kek_file in keyd.toml; without it the key is a systemd credential, which needs no passphrase",
            )
        return "key-encryption key: from the systemd credential (kek_file is not set)"
    if not settings.kek_file.exists() and _has_wallets(settings):
        raise SetupError(*_lost_key(settings))
    made = kek.create(settings.kek_file, secrets.token_bytes, passphrase)
    if not made:
        return f"key-encryption key: {settings.kek_file} exists"
    how = "created in the clear: for trying out" if passphrase is None else "created, under the passphrase"
    return f"key-encryption key: {settings.kek_file} {how}"


def _folder(settings: Settings) -> str:
    made = make_private_directory(settings.state_dir)
    make_private_directory(settings.wallet_dir)
    return f"state folder: {settings.state_dir} {'created' if made else 'exists'}"


def refuse_lost_ledger(settings: Settings) -> None:
    """Raises LedgerError if there are wallets but no ledger: `init` makes the ledger first, so it was lost.

    A new one would know nothing of what was spent today, of pins, of quarantine, or that payments are frozen.
    """
    if not settings.ledger_file.exists() and _has_wallets(settings):
        raise LedgerError(
            f"{settings.ledger_file} is missing, but there are wallets",
            "restore it from a backup; to begin a new record, move the wallets away, run `osmoda-keyctl init`, and put "
            "them back",
        )


def _ledger(settings: Settings) -> str:
    if settings.ledger_file.exists():
        return f"ledger: {settings.ledger_file} exists"
    refuse_lost_ledger(settings)
    Ledger.open(settings.ledger_file, clock=lambda: time.time_ns() // 1000).close()
    return f"ledger: {settings.ledger_file} created"
