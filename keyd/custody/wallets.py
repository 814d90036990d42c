"""The wallets as the record has them: which exist, which may sign, which one pays if nobody names one.

A file in the wallet folder is a key; whether it may be used is a fact in the ledger. A wallet file is written before
its entry, because an entry that promises a lost key could not be mended, while a file without an entry is found by
`take_stock` and put on record then.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import structlog

from keyd import api
from keyd.core.policy import Deny
from keyd.custody import ethkeystore
from keyd.custody.keystore import Keystore, Payer, WalletExists, WalletInfo, WalletMissing, WalletUnreadable
from keyd.custody.secret import Secret
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts, payments
from keyd.record.facts import Kind
from ledger.log import Ledger
from ledger.transaction import Transaction

_LOST: Final = "its file is missing: restore it from a backup, or import its key again"
_OTHER: Final = "its file is not of the address on record: restore it from a backup"
_STRAY: Final = "its file is not on record, and does not open under the key-encryption key in force"

log = structlog.get_logger("keyd.custody")

type Recorded = dict[str, Any]


class Custody:
    """Methods raise LedgerError if something cannot be recorded; then nothing came of it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keystore: Keystore,
        initial_default: str,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.keystore = keystore
        self.lock = asyncio.Lock()
        """Held by whatever changes wallet files: what is looked at first must still be true when it is written."""
        self._ledger = ledger
        self._initial_default = initial_default
        self._entropy = entropy

    # -- what is there ------------------------------------------------------------------------------------

    def payer(self, db: sqlite3.Connection, label: str | None) -> Payer | Deny:
        """The wallet that signs for a request: the one it names, or the default."""
        label = label or self.default_label(db)
        recorded = _recorded(db, label)
        if recorded is None:
            return Deny(Reason.WALLET_MISSING, f"there is no wallet {label!r}")
        if recorded["archived"]:
            return Deny(Reason.WALLET_ARCHIVED, f"wallet {label!r} is archived")
        try:
            payer = self.keystore.open(label)
        except WalletMissing:
            return Deny(Reason.WALLET_MISSING, f"wallet {label!r}: {_LOST}")
        except WalletUnreadable as error:
            return Deny(Reason.WALLET_UNREADABLE, str(error))
        if payer.address != recorded["address"]:
            return Deny(Reason.WALLET_UNREADABLE, f"wallet {label!r}: {_OTHER}")
        return payer

    def default_label(self, db: sqlite3.Connection) -> str:
        """What an administrator chose at run time, or else `default_wallet_label` of keyd.toml."""
        chosen: str | None = facts.get(db, Kind.DEFAULT_WALLET, "")
        return chosen or self._initial_default

    def default(self) -> tuple[str, str | None]:
        """Label of the default wallet, and its address if it is on record. Opens nothing."""

        def read(db: sqlite3.Connection) -> tuple[str, str | None]:
            label = self.default_label(db)
            recorded = _recorded(db, label)
            return label, None if recorded is None else str(recorded["address"])

        return self._ledger.read(read)

    def default_problem(self) -> Deny | None:
        """Why the default wallet cannot pay now."""
        payer = self._ledger.read(lambda db: self.payer(db, None))
        return payer if isinstance(payer, Deny) else None

    def wallets(self) -> api.WalletList:
        """Every wallet on record or in the folder. One that is damaged hides no other."""
        recorded, default = self._ledger.read(
            lambda db: (facts.every(db, Kind.WALLET), self.default_label(db))
        )
        files, damaged = self.keystore.infos()
        found = {info.label: info for info in files}
        damaged |= dict.fromkeys(found.keys() - recorded.keys(), _STRAY)
        for label in recorded.keys() - damaged.keys():
            if label not in found:
                damaged[label] = f"wallet {label!r}: {_LOST}"
            elif found[label].address != recorded[label]["address"]:
                damaged[label] = f"wallet {label!r}: {_OTHER}"
        return api.WalletList(
            wallets=[
                _view(label, recorded[label], default) for label in sorted(recorded.keys() - damaged.keys())
            ],
            damaged=[
                api.DamagedWallet(label=label, problem=problem) for label, problem in sorted(damaged.items())
            ],
        )

    async def take_stock(self) -> None:
        """At start, and before any new wallet: what a crash left without an entry gets one."""
        self.keystore.sweep()
        await self._transact(self.stock_step)
        for wallet in self.wallets().damaged:
            log.error("keyd.wallet.damaged", wallet=wallet.label, problem=wallet.problem)

    def stock_step(self, tx: Transaction) -> None:
        """Puts each wallet file on record that opens and has no entry."""
        for info in self.keystore.infos()[0]:
            if _recorded(tx.db, info.label) is None and self._opens(info.label):
                tx.append("wallet.found", "keyd", _entry(info.label, _of(info)))

    def _opens(self, label: str) -> bool:
        try:
            self.keystore.open(label)
        except (WalletMissing, WalletUnreadable):
            return False
        return True

    # -- made and brought ---------------------------------------------------------------------------------

    async def create(self, peer: Peer, label: str, now_s: int) -> api.Wallet | Deny:
        """A new wallet; its key never leaves keyd, unless it is exported."""
        async with self.lock:
            await self.take_stock()
            if (denial := self._unless_new(label)) is not None:
                return denial
            return await self._made(peer, "wallet.created", label, lambda: self.keystore.create(label, now_s))

    async def import_(self, peer: Peer, label: str, key: Secret, now_s: int) -> api.Wallet | Deny:
        """A wallet with a key from outside. Also brings back the lost file of a wallet on record."""
        async with self.lock:
            await self.take_stock()
            denial, address = self._unless_new(label), Payer(label, key).address
            if denial is not None and not self._is_lost(label, address):
                return denial
            other = self._label_of(address)
            if other not in (None, label):  # archiving one would leave it signing
                return Deny(Reason.WALLET_EXISTS, f"wallet {other!r} has this key")
            return await self._made(
                peer, "wallet.imported", label, lambda: self.keystore.store(label, key, now_s)
            )

    async def _made(
        self, peer: Peer, event: str, label: str, make: Callable[[], WalletInfo]
    ) -> api.Wallet | Deny:
        if (denial := self._ledger.read(self._rotation_under_way)) is not None:
            return denial
        try:
            recorded = _of(make())
        except WalletExists:
            return Deny(Reason.WALLET_EXISTS, f"there is a wallet {label!r} already")
        except OSError as error:
            return Deny(Reason.LEDGER_UNAVAILABLE, f"wallet {label!r} was not made: {error.strerror}")

        def step(tx: Transaction) -> api.Wallet:
            # Its key is back; whether it may sign is another question.
            before = _recorded(tx.db, label) or recorded
            return self._record(tx, peer, event, label, recorded | {"archived": before["archived"]})

        # A crash from here on leaves a file without an entry, which `take_stock` finds.
        return await self._transact(step)

    def _record(
        self, tx: Transaction, peer: Peer, event: str, label: str, recorded: Recorded, **more: object
    ) -> api.Wallet:
        tx.append(event, str(peer), _entry(label, recorded) | more)
        return _view(label, recorded, self.default_label(tx.db))

    def _unless_new(self, label: str) -> Deny | None:
        recorded = self._ledger.read(lambda db: _recorded(db, label))
        return (
            None if recorded is None else Deny(Reason.WALLET_EXISTS, f"there is a wallet {label!r} already")
        )

    def _label_of(self, address: str) -> str | None:
        """Of the wallet on record that has this address."""
        recorded = self._ledger.read(lambda db: facts.every(db, Kind.WALLET))
        return next((label for label, wallet in recorded.items() if wallet["address"] == address), None)

    def _is_lost(self, label: str, address: str) -> bool:
        """Whether `label` is on record with this very address, and its file is gone."""
        recorded = self._ledger.read(lambda db: _recorded(db, label))
        return recorded is not None and recorded["address"] == address and label not in self.keystore.labels()

    def _rotation_under_way(self, db: sqlite3.Connection) -> Deny | None:
        """A wallet made now would not open under the next key, which keyd no longer holds after a restart."""
        next_id = (facts.get(db, Kind.KEK, "") or {}).get("next")
        if next_id is None or next_id in {kek.id for kek in (self.keystore.kek, *self.keystore.pending)}:
            return None
        return Deny(Reason.KEK_ROTATION, f"a change to key {next_id} was begun and not ended")

    # -- put away, chosen ---------------------------------------------------------------------------------

    async def archive(self, peer: Peer, label: str, *, even_default: bool) -> api.Wallet | Deny:
        """From the next decision on the wallet signs nothing. Its file and its open payments stay."""

        def step(tx: Transaction) -> api.Wallet | Deny:
            recorded = _recorded(tx.db, label)
            if recorded is None:
                return Deny(Reason.WALLET_MISSING, f"there is no wallet {label!r}")
            if label == self.default_label(tx.db) and not even_default:
                return Deny(Reason.WALLET_IS_DEFAULT, f"wallet {label!r} is the default")
            if recorded["archived"]:
                return _view(label, recorded, self.default_label(tx.db))
            unproven = payments.of_wallet(tx.db, label).unproven
            recorded |= {"archived": True}
            return self._record(tx, peer, "wallet.archived", label, recorded, open_payments=unproven)

        return await self._transact(step)

    async def restore(self, peer: Peer, label: str) -> api.Wallet | Deny:
        """An archived wallet may sign again."""

        def step(tx: Transaction) -> api.Wallet | Deny:
            recorded = _recorded(tx.db, label)
            if recorded is None:
                return Deny(Reason.WALLET_MISSING, f"there is no wallet {label!r}")
            if not recorded["archived"]:
                return _view(label, recorded, self.default_label(tx.db))
            return self._record(tx, peer, "wallet.restored", label, recorded | {"archived": False})

        return await self._transact(step)

    async def choose_default(self, peer: Peer, label: str | None) -> api.Wallet | Deny:
        """`label` pays from now on, whatever keyd.toml says; None: the one that keyd.toml says."""

        def step(tx: Transaction) -> api.Wallet | Deny:
            before, after = self.default_label(tx.db), label or self._initial_default
            payer = self.payer(tx.db, after)
            if isinstance(payer, Deny):  # nothing would be paid after that
                return payer
            if facts.get(tx.db, Kind.DEFAULT_WALLET, "") != label:
                change = facts.put(Kind.DEFAULT_WALLET, "", label)
                tx.append("wallet.default", str(peer), {"after": after, "before": before, "facts": [change]})
            return _view(after, _recorded(tx.db, after) or {}, after)

        return await self._transact(step)

    # -- taken away ---------------------------------------------------------------------------------------

    async def export(self, peer: Peer, message: api.WalletExport) -> api.WalletExported | Deny:
        """The key as an Ethereum keystore, encrypted here. On record before it exists in that form."""
        label = message.label
        if message.confirm != label:
            return Deny(Reason.CONFIRMATION_WRONG, f"{message.confirm[:64]!r} is not {label!r}")
        async with self.lock:  # one at a time: each takes 128 MiB for its passphrase
            recorded = self._ledger.read(lambda db: _recorded(db, label))
            if recorded is None:
                return Deny(Reason.WALLET_MISSING, f"there is no wallet {label!r}")
            try:
                address, key = self.keystore.reveal(label)
            except (WalletMissing, WalletUnreadable) as error:
                return Deny(Reason.WALLET_UNREADABLE, str(error))
            data = {"address": address, "label": label}
            await self._transact(lambda tx: tx.append("wallet.exported", str(peer), data))
            keystore = await asyncio.to_thread(
                ethkeystore.encrypt, key, address, message.passphrase, self._entropy
            )
        return api.WalletExported(label=label, address=address, keystore=keystore)

    async def _transact[T](self, step: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._ledger.transact(step))


def _recorded(db: sqlite3.Connection, label: str) -> Recorded | None:
    recorded: Recorded | None = facts.get(db, Kind.WALLET, label)
    return recorded


def _of(info: WalletInfo) -> Recorded:
    return {"address": info.address, "archived": False, "created_at": info.created_at}


def _entry(label: str, recorded: Recorded) -> dict[str, object]:
    change = facts.put(Kind.WALLET, label, recorded)
    return {"address": recorded["address"], "facts": [change], "label": label}


def _view(label: str, recorded: Recorded, default: str) -> api.Wallet:
    return api.Wallet(
        label=label,
        address=recorded["address"],
        created_at=recorded["created_at"],
        default=label == default,
        archived=recorded["archived"],
    )
