"""Backups: everything that keyd needs to go on elsewhere, at one moment of the ledger, under a passphrase.

A backup holds the wallets and the key that opens them, so making one is on record before it exists. It is encrypted
here, and fetched in parts: nothing of it crosses the socket in the clear, and no answer is large.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast

from keyd import api
from keyd.core.policy import Deny
from keyd.custody.stream import SealingWriter
from keyd.custody.wallets import Custody
from keyd.files import make_private_directory
from keyd.peer import Peer
from keyd.reasons import Reason
from ledger import store
from ledger.chain import Head
from ledger.log import Ledger

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
LEDGER: Final = "ledger.sqlite3"
CONFIG: Final = "keyd.toml"
HEAD_KEY: Final = "ledger-key.json"
BESIDE: Final = ("ledger.heads", HEAD_KEY, "overrides.toml")
"""Files of the state folder that go along, if they are there."""
_FOLDER: Final = "backup"
_PART: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Made:
    id: str
    file: Path
    size: int


class Backups:
    """Makes one backup at a time, in `state_dir`/backup, and hands it out. Methods raise LedgerError, OSError."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        custody: Custody,
        state_dir: Path,
        config_file: Path | None,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._custody = custody
        self._state_dir = state_dir
        self._config_file = config_file
        self._entropy = entropy
        self._made: _Made | None = None

    def sweep(self) -> None:
        """Removes what was not fetched, or what a crash left: half a backup, or a copy of the ledger."""
        self._made = None
        shutil.rmtree(self._state_dir / _FOLDER, ignore_errors=True)

    async def make(self, peer: Peer, passphrase: str) -> api.BackupMade:
        """A backup that begins with the entry that says so."""
        async with self._custody.lock:  # no wallet changes while they are read, and no key
            # Before the ledger: signed heads that are newer than it would say that it was cut off.
            beside = self._beside()
            kek = self._custody.keystore.kek
            wallets = len(self._custody.keystore.labels())
            await self._record(peer, {"kek": kek.id, "wallets": wallets})
            self.sweep()
            id_ = self._entropy(8).hex()
            size, head = await asyncio.to_thread(self._write, id_, passphrase, beside, kek.reveal())
            self._made = _Made(id_, self._state_dir / _FOLDER / id_, size)
        return api.BackupMade(id=id_, size=size, seq=head.seq, hash=head.hash.hex(), wallets=wallets)

    def part(self, id_: str, offset: int) -> bytes | Deny:
        """At most 256 KiB of the backup from `offset` on; with its last part it is gone from here."""
        made = self._made
        if made is None or made.id != id_:
            return Deny(Reason.BACKUP_UNKNOWN, f"there is no backup {id_[:64]!r}")
        with made.file.open("rb") as file:
            file.seek(offset)
            part = file.read(_PART)
        if offset + len(part) >= made.size:
            self._drop(made)
        return part

    def _drop(self, made: _Made) -> None:
        """This one alone: the next may be in the making."""
        made.file.unlink(missing_ok=True)
        if self._made is made:
            self._made = None
        with suppress(OSError):  # not empty
            made.file.parent.rmdir()

    async def _record(self, peer: Peer, data: dict[str, object]) -> None:
        await asyncio.wrap_future(self._ledger.transact(lambda tx: tx.append("keyd.backup", str(peer), data)))

    def _beside(self) -> dict[str, bytes]:
        files = {name: self._state_dir / name for name in BESIDE}
        if self._config_file is not None:
            files[CONFIG] = self._config_file
        return {name: path.read_bytes() for name, path in files.items() if path.is_file()}

    def _write(self, id_: str, passphrase: str, beside: dict[str, bytes], kek: bytes) -> tuple[int, Head]:
        folder = self._state_dir / _FOLDER
        make_private_directory(folder)
        snapshot = folder / LEDGER
        head = self._ledger.read(lambda db: _copy(db, snapshot))
        manifest = {
            "version": VERSION,
            "made_by": f"osmoda-x402 {version('osmoda-x402')}",
            "head": {"seq": head.seq, "hash": head.hash.hex()},
            "kek": kek.hex(),
        }
        with (folder / id_).open("wb") as file:
            sealing = SealingWriter(file, passphrase, self._entropy)
            with tarfile.open(fileobj=cast(io.BytesIO, sealing), mode="w|") as archive:
                _add(archive, MANIFEST, json.dumps(manifest).encode())
                for name, content in beside.items():
                    _add(archive, name, content)
                for path in self._custody.keystore.files():
                    _add(archive, f"wallets/{path.name}", path.read_bytes())
                archive.add(snapshot, LEDGER, filter=_anonymous)
            sealing.close()
        snapshot.unlink()
        return (folder / id_).stat().st_size, head


def _copy(db: sqlite3.Connection, target: Path) -> Head:
    """The ledger as `db` sees it, into a new file; its head."""
    head = Head(*db.execute(f"{store.SELECT_HEAD} FROM meta").fetchone())
    copy = sqlite3.connect(target)
    try:
        db.backup(copy)
    finally:
        copy.close()
    return head


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
