"""`keyctl restore`: puts a backup in place of nothing. Runs while keyd does not, as the user that keyd runs as.

Everything is unpacked and checked beside its place, sealed under this machine's key-encryption key, and moved at the end,
the ledger last: without a ledger keyd does not start beside wallets. Killed before that, nothing has happened.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from keyd.config import Settings
from keyd.custody.backup import BESIDE, CONFIG, HEAD_KEY, LEDGER, MANIFEST, VERSION
from keyd.custody.headkey import HeadKeyFile
from keyd.custody.kek import Kek
from keyd.custody.keystore import Keystore, WalletMissing, WalletUnreadable
from keyd.custody.stream import OpeningReader, StreamError
from keyd.files import make_private_directory, sync_directory
from keyd.record import facts
from keyd.record.facts import Kind
from ledger import kept, store
from ledger.chain import Head
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.verify import verify

_WALLET: Final = re.compile(r"wallets/[a-z0-9][a-z0-9._-]{0,62}\.json", re.ASCII)
_SMALL: Final = {MANIFEST, CONFIG, *BESIDE}
_MAX_SMALL: Final = 64 * 1024 * 1024
"""Bytes of a file other than the ledger: signed heads of ten million entries are 3 MB."""
_COPY: Final = 1024 * 1024
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class RestoreError(Exception):
    """The backup was not put in place; `hint` is the way out. What was there is as it was."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Restored:
    head: Head
    """Of the ledger as it was backed up; the entry about the restoring follows it."""
    wallets: int
    damaged: dict[str, str]
    """Wallets that did not open when the backup was made, either: label → why."""
    config: Path | None
    """Where the backup's keyd.toml was put, for comparison."""


def restore(
    source: BinaryIO,
    passphrase: str,
    settings: Settings,
    kek: Kek,
    known: list[Head],
    *,
    clock: Callable[[], int],
) -> Restored:
    """Puts the backup that `source` reads in place. Raises RestoreError, LedgerError, OSError.

    `known` are heads of this ledger that somebody kept: a backup that is older, or of another ledger, is refused. So
    are the heads that are still in the state folder: the backup's would take their place.
    """
    make_private_directory(settings.state_dir)
    if (owner := settings.state_dir.stat().st_uid) != os.geteuid():
        raise RestoreError(
            f"{settings.state_dir} belongs to uid {owner}, who could not read what is restored",
            "run it as the user that keyd runs as; docs/custody.md shows how",
        )
    lock = store.lock(settings.ledger_file)
    try:
        _refuse_existing(settings)
        with _staging(settings.state_dir) as staging:
            manifest = _manifest(_unpack(source, passphrase, staging))
            head = _check_ledger(staging / LEDGER, manifest, [*known, *_heads_here(settings)])
            damaged = _reseal(staging, Kek(bytes.fromhex(manifest["kek"])), kek)
            _record(staging / LEDGER, manifest, kek, clock)
            return _put_in_place(staging, settings, head, damaged)
    finally:
        os.close(lock)


def _refuse_existing(settings: Settings) -> None:
    """An empty ledger, as `keyctl init` makes it, is nothing."""
    wallets = any(settings.wallet_dir.glob("*")) if settings.wallet_dir.exists() else False
    if settings.ledger_file.exists():
        db = store.open_writer(settings.ledger_file)
        try:
            entries = store.read_head(db).seq
        finally:
            db.close()
    else:
        entries = 0
    if wallets or entries:
        raise RestoreError(
            f"{settings.state_dir} holds {'wallets' if wallets else f'a ledger of {entries} entries'} already",
            "restoring would replace a newer record by an older one; if that is meant, move the folder away first: "
            f"`mv {settings.state_dir} {settings.state_dir}.before`",
        )


def _heads_here(settings: Settings) -> list[Head]:
    """Heads that the keyd before signed here, if its folder was not moved away as a whole."""
    file = settings.ledger_heads_file
    return kept.heads([str(file)]) if file.exists() else []


@contextmanager
def _staging(state_dir: Path) -> Iterator[Path]:
    for left in state_dir.glob(".restore-*"):  # by a restore that was killed
        shutil.rmtree(left)
    folder = state_dir / f".restore-{secrets.token_hex(8)}"
    make_private_directory(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(source: BinaryIO, passphrase: str, staging: Path) -> bytes:
    """Only what a backup holds, by exactly those names. Returns the manifest, whose key no disk should see."""
    make_private_directory(staging / "wallets")
    manifest = b""
    try:
        reader = OpeningReader(source, passphrase)
        with tarfile.open(fileobj=cast(BinaryIO, reader), mode="r|") as archive:
            for member in archive:
                path = staging / _known_name(member)
                content = archive.extractfile(member)
                assert content is not None  # a regular file has content
                if member.name == MANIFEST:
                    manifest = content.read()
                    continue
                with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
                    shutil.copyfileobj(content, file, _COPY)
                    file.flush()
                    os.fsync(file.fileno())
        while reader.read(_COPY):  # to the end: only its last chunk shows that nothing was cut off
            pass
    except (StreamError, tarfile.TarError, FileExistsError) as error:
        raise RestoreError(
            f"the backup does not open: {error}", "try the passphrase again, or an older backup"
        ) from None
    return manifest


def _known_name(member: tarfile.TarInfo) -> str:
    """Raises StreamError."""
    small = member.name in _SMALL or _WALLET.fullmatch(member.name) is not None
    if not member.isreg() or not (small or member.name == LEDGER):
        raise StreamError(f"it holds {member.name[:100]!r}, which no backup does")
    if small and member.size > _MAX_SMALL:
        raise StreamError(f"its {member.name} is too large")
    return member.name


def _manifest(content: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(content)
        Head(manifest["head"]["seq"], bytes.fromhex(manifest["head"]["hash"]))
        if manifest["version"] == VERSION and len(bytes.fromhex(manifest["kek"])) == 32:
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise RestoreError("the backup is of another version", "restore it with the osmoda-x402 that made it")


def _check_ledger(file: Path, manifest: dict[str, Any], known: list[Head]) -> Head:
    """From its first entry to its last. Raises RestoreError."""
    verdict = verify(file)
    if not verdict.ok:
        raise RestoreError(
            f"the ledger in the backup is damaged: {verdict.problems[0]}", "take an older backup"
        )
    head = Head(manifest["head"]["seq"], bytes.fromhex(manifest["head"]["hash"]))
    if verdict.head != head:
        raise RestoreError("the ledger in the backup is not the one it was made of", "take an older backup")
    ledger = store.open_reader(file)
    try:
        for kept in known:
            _compare(
                kept, head, ledger.execute("SELECT hash FROM entries WHERE seq = ?", (kept.seq,)).fetchone()
            )
    finally:
        ledger.close()
    return head


def _compare(kept: Head, head: Head, found: tuple[bytes] | None) -> None:
    if kept.seq > head.seq:
        raise RestoreError(
            f"the backup is older than a head you kept: it has {head.seq} entries, and there were {kept.seq}",
            "look for a newer backup. Without one restore it without --known-head, and with ledger.heads moved away from "
            "the state folder, and count what is missing as spent: docs/custody.md says how",
        )
    if kept.seq and found != (kept.hash,):
        raise RestoreError(
            f"the backup is of another ledger: its entry {kept.seq} is not the one of the head you kept",
            "look for the backup of this machine",
        )


def _reseal(staging: Path, old: Kek, new: Kek) -> dict[str, str]:
    """Every wallet, and the key that signs heads, opens under this machine's key alone; a wallet that did not open
    before is left as it is."""
    damaged: dict[str, str] = {}
    keystore = Keystore(staging / "wallets", old, secrets.token_bytes)
    for label in keystore.labels():
        try:
            keystore.kek = old
            keystore.add_seal(label, new)
            keystore.kek = new
            keystore.drop_older_seals(label)
        except (WalletMissing, WalletUnreadable) as error:
            damaged[label] = str(error)
    head_key = HeadKeyFile(staging / HEAD_KEY, secrets.token_bytes)
    if (staging / HEAD_KEY).exists():
        head_key.add_seal(old, new)
        head_key.drop_older_seals(new)
    return damaged


def _record(file: Path, manifest: dict[str, Any], kek: Kek, clock: Callable[[], int]) -> None:
    """The restoring, on record; and a freeze, because what was signed after the backup is not known here."""
    ledger = Ledger.open(file, clock=clock)
    try:
        reason = "restored from a backup: what was signed after it is not on record here"
        frozen = {"at": clock() // 1_000_000, "by": "keyctl restore", "reason": reason}
        changes = [
            facts.put(Kind.FROZEN, "", frozen),
            facts.put(Kind.KEK, "", {"id": kek.id, "next": None}),
        ]
        data = {"facts": changes, "head": manifest["head"], "kek": kek.id, "made_by": manifest["made_by"]}
        ledger.transact(lambda tx: tx.append("keyd.restored", "keyctl", data)).result()
    finally:
        ledger.close()
    # Closing puts the journal into the file; what is left would stay behind, and the freeze with it.
    if store.has_journal(file):
        raise RestoreError("the entry about restoring did not reach the ledger's file", "free disk space")


def _put_in_place(staging: Path, settings: Settings, head: Head, damaged: dict[str, str]) -> Restored:
    state_dir, config = settings.state_dir, None
    for suffix in ("", "-wal", "-shm"):  # the empty one: from here on keyd does not start until the end
        Path(f"{settings.ledger_file}{suffix}").unlink(missing_ok=True)
    wallets = len(list((staging / "wallets").glob("*.json")))
    if settings.wallet_dir.exists():
        settings.wallet_dir.rmdir()  # empty, as `_refuse_existing` saw
    (staging / "wallets").replace(settings.wallet_dir)
    for name in BESIDE:
        if (staging / name).exists():
            (staging / name).replace(state_dir / name)
    if (staging / CONFIG).exists():
        config = state_dir / f"{CONFIG}.from-backup"
        (staging / CONFIG).replace(config)
    sync_directory(settings.wallet_dir)
    sync_directory(state_dir)
    (staging / LEDGER).replace(settings.ledger_file)
    sync_directory(state_dir)
    return Restored(head, wallets, damaged, config)


__all__ = ["LedgerError", "RestoreError", "Restored", "restore"]
