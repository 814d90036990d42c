"""Changing the key-encryption key: every wallet opens under the old key until the new one is in force, and under the
new one from that instant on, whenever keyd is killed (docs/adr/0012).

    1. on record: a change to key N begins
    2. each wallet file, one by one, is replaced by one that holds the key sealed under both
    3. the source of the key (kek_file, or the systemd credential) is replaced: one rename
    4. on record: key N is in force
    5. each wallet file, one by one, loses what is sealed under older keys

A key is forgotten only in step 5, by a keyd that got a newer one from the source itself.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from keyd import api
from keyd.core.policy import Deny
from keyd.custody.headkey import HeadKeyFile
from keyd.custody.kek import KEK_BYTES, Kek, Source
from keyd.custody.kek import Kind as SourceKind
from keyd.custody.keystore import WalletMissing, WalletUnreadable
from keyd.custody.wallets import Custody
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts
from keyd.record.facts import Kind
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.transaction import Transaction

log = structlog.get_logger("keyd.rotation")


class Rotation:
    """Methods raise LedgerError if something cannot be recorded; the wallets open all the same."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        custody: Custody,
        source: Source,
        entropy: Callable[[int], bytes],
        head_key: HeadKeyFile | None = None,
    ) -> None:
        """`head_key` is sealed under the same key as the wallets; None where no heads are signed."""
        self._ledger = ledger
        self._custody = custody
        self._keystore = custody.keystore
        self._source = source
        self._entropy = entropy
        self._head_key = head_key

    def view(self) -> api.KekView:
        """Which key is in force, and which one is about to be."""
        recorded = self._ledger.read(_recorded)
        pending = None if recorded is None else recorded["next"]
        return api.KekView(
            source=self._source.kind.value,
            id=self._source.kek.id,
            next=None if pending == self._source.kek.id else pending,
            wallets=len(self._keystore.labels()),
        )

    async def at_start(self) -> None:
        """Steps 4 and 5, if this start was given another key than the last one."""
        self._source.sweep()
        recorded, mine = self._ledger.read(_recorded), self._source.kek.id
        if recorded is not None and recorded["id"] != mine:
            if (problem := self._unsealable()) is not None:
                log.error("keyd.kek.other", in_force=recorded["id"], given=mine, problem=problem)
                return
            await self._ended("keyd", recorded["id"])
        if recorded is not None:
            self._drop_older()

    async def rotate(self, peer: Peer, message: api.KekRotate) -> api.KekRotated | Deny:
        """To the key of `message`, or to a new one. An OSError leaves the old key in force, and can be tried again."""
        if (mistake := self._mistake(message)) is not None:
            return Deny(Reason.KEK_ROTATION, mistake)
        async with self._custody.lock:
            await self._custody.take_stock()
            if (problem := self._unsealable()) is not None:  # it would be lost with the old key
                return Deny(Reason.WALLET_UNREADABLE, problem)
            new = Kek(self._entropy(KEK_BYTES) if message.new_kek is None else bytes.fromhex(message.new_kek))
            try:
                return await self._rotate(peer, new, message.passphrase)
            except OSError as error:
                return Deny(Reason.KEK_ROTATION, f"{error.filename}: {error.strerror}; the old key holds")

    async def _rotate(self, peer: Peer, new: Kek, passphrase: str | None) -> api.KekRotated:
        old = self._source.kek.id
        await self._record(str(peer), "wallet.rekeying", old, new.id, {"id": old, "next": new.id})
        self._keystore.pending += (new,)  # from here on new wallets are sealed under it as well
        for label in self._keystore.labels():
            self._keystore.add_seal(label, new)
        if self._head_key is not None:
            self._head_key.add_seal(self._source.kek, new)
        wallets = len(self._keystore.labels())
        if self._source.kind is SourceKind.CREDENTIAL:
            return api.KekRotated(id=new.id, wallets=wallets, finished=False)
        await asyncio.to_thread(self._source.replace, new, passphrase, self._entropy)
        self._source = replace(self._source, kek=new)
        self._keystore.kek, self._keystore.pending = new, ()
        await self._ended(str(peer), old)
        self._drop_older()
        return api.KekRotated(id=new.id, wallets=wallets, finished=True)

    async def _ended(self, actor: str, old: str) -> None:
        new = self._source.kek.id
        await self._record(actor, "wallet.rekeyed", old, new, {"id": new, "next": None})

    async def _record(
        self, actor: str, event: str, old: str, new: str, recorded: dict[str, str | None]
    ) -> None:
        def step(tx: Transaction) -> None:
            change = facts.put(Kind.KEK, "", recorded)
            wallets = len(self._keystore.labels())
            tx.append(event, actor, {"after": new, "before": old, "facts": [change], "wallets": wallets})

        await asyncio.wrap_future(self._ledger.transact(step))

    def _drop_older(self) -> None:
        """A wallet that cannot be written now keeps its old seal until the next start."""
        for label in self._keystore.labels():
            try:
                self._keystore.drop_older_seals(label)
            except (OSError, WalletMissing, WalletUnreadable) as error:
                log.warning("keyd.wallet.old_seal_left", wallet=label, problem=str(error))
        if self._head_key is not None:
            try:
                self._head_key.drop_older_seals(self._source.kek)
            except (OSError, LedgerError) as error:
                log.warning("keyd.head_key.old_seal_left", problem=str(error))

    def _unsealable(self) -> str | None:
        """Why a wallet file does not open under the key in force; None if all do."""
        for label in self._keystore.labels():
            try:
                self._keystore.open(label)
            except (WalletMissing, WalletUnreadable) as error:
                return str(error)
        return None

    def _mistake(self, message: api.KekRotate) -> str | None:
        """Why this source cannot be changed in this way."""
        kind, file = self._source.kind, self._source.file
        if (kind is SourceKind.CREDENTIAL) is not (message.new_kek is not None):
            return "a new key goes with a systemd credential, and only with one"
        if (kind is SourceKind.PASSPHRASE) is not (message.passphrase is not None):
            return "a passphrase goes with a key that is sealed under one, and only with such a key"
        if file is not None and not os.access(file.parent, os.W_OK):
            return f"keyd cannot write to {file.parent}, where its key is"
        return None


def _recorded(db: sqlite3.Connection) -> dict[str, Any] | None:
    recorded: dict[str, Any] | None = facts.get(db, Kind.KEK, "")
    return recorded
