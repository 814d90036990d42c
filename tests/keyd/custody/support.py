"""keyd's custody on real files with a real kek_file; run as a program, it kills itself in the middle of a change."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Final

from keyd import api, files
from keyd.custody import kek
from keyd.custody.keystore import Keystore
from keyd.custody.rotation import Rotation
from keyd.custody.wallets import Custody
from keyd.peer import Peer
from ledger.log import Ledger

LABELS: Final = ("a", "b", "c")
PASSPHRASE: Final = "correct horse battery"


class Vault:
    """What keyd's start puts together, without server and policy."""

    def __init__(self, folder: Path, passphrase: str | None) -> None:
        ask = None if passphrase is None else lambda: passphrase
        kek.create(folder / "kek", secrets.token_bytes, ask)
        self.source = kek.load(folder / "kek", {}, ask)
        self.keystore = Keystore(folder / "wallets", self.source.kek, secrets.token_bytes)
        self.ledger = Ledger.open(folder / "ledger.sqlite3", clock=lambda: time.time_ns() // 1000)
        self.custody = Custody(
            ledger=self.ledger, keystore=self.keystore, initial_default="a", entropy=secrets.token_bytes
        )
        self.rotation = Rotation(
            ledger=self.ledger, custody=self.custody, source=self.source, entropy=secrets.token_bytes
        )

    async def start(self) -> None:
        await self.rotation.at_start()
        await self.custody.take_stock()

    def addresses(self) -> dict[str, str]:
        """Every wallet, opened."""
        return {label: self.keystore.open(label).address for label in self.keystore.labels()}

    def types(self) -> list[str]:
        """Entries about the key-encryption key."""
        return [e.type for e in self.ledger.entries(limit=10_000) if e.type.startswith("wallet.rek")]


async def _die(folder: Path, what: str, last: int) -> None:
    """At fsync number `last` of a change of keys ("rotate"), or of making one more wallet ("create")."""
    vault = Vault(folder, None)
    admin = Peer(pid=1, uid=0, gid=0)
    for label in LABELS:
        await vault.custody.create(admin, label, 0)
    steps, fsync = itertools.count(), os.fsync

    def mortal(descriptor: int) -> None:
        if next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    files.os.fsync = mortal  # type: ignore[attr-defined]
    if what == "create":
        await vault.custody.create(admin, "late", 0)
    await vault.rotation.rotate(admin, api.KekRotate())


if __name__ == "__main__":
    asyncio.run(_die(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
