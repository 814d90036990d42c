"""Messages about wallets. One message alone carries a key out of keyd: encrypted, for an administrator, on record."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from keyd.api.base import Hex32, Label, Message, Usd

Hidden = Field(repr=False)
"""For members that must not get into a log by way of repr()."""
Passphrase = Annotated[str, StringConstraints(min_length=12, max_length=1024)]
"""What it protects leaves this machine, where it can be guessed at without limit: `keyd.custody.scrypt.MIN_PASSPHRASE`."""


class WalletCreate(Message):
    label: Label


class WalletImport(Message):
    label: Label
    private_key: Annotated[str, StringConstraints(max_length=70), Hidden]
    """32 bytes in hex, with or without 0x."""


class Wallet(Message):
    label: str
    address: str
    """EIP-55 checksummed."""
    created_at: int
    default: bool
    archived: bool = False
    """It signs nothing."""


class DamagedWallet(Message):
    """A wallet that is on record or in the folder, and cannot pay."""

    label: str
    problem: str
    """In words."""


class WalletList(Message):
    wallets: list[Wallet]
    damaged: list[DamagedWallet] = Field(default_factory=list)


class WalletArchive(Message):
    label: Label
    even_default: bool = False
    """The default wallet is archived only if this says so: nothing is paid then."""


class WalletRestore(Message):
    label: Label


class WalletDefault(Message):
    label: Label | None = None
    """None: again the `default_wallet_label` of keyd.toml."""


class WalletToken(Message):
    """A token that the wallet may be asked to pay in."""

    network: str
    """CAIP-2."""
    address: str
    symbol: str
    decimals: int


class WalletView(Message):
    """`GET /wallet/show/{label}`. No balance: keyd has no network, keyctl asks the chain."""

    wallet: Wallet
    spent_today: Usd
    spent: Usd
    """Of all days."""
    payments: int
    open_payments: int
    """Whose end is not proven."""
    tokens: list[WalletToken]


class WalletExport(Message):
    """`POST /wallet/export`: the key as an Ethereum keystore, version 3."""

    label: Label
    confirm: str
    """The label once more, as a person typed it."""
    passphrase: Annotated[Passphrase, Hidden]


class WalletExported(Message):
    label: str
    address: str
    keystore: Annotated[dict[str, Any], Hidden]


class KekView(Message):
    """`GET /wallet/kek`: which key-encryption key seals the wallets. Ids say nothing about the keys."""

    source: Literal["credential", "file", "passphrase"]
    id: str
    next: str | None
    """A change is under way to this one."""
    wallets: int


class KekRotate(Message):
    """`POST /wallet/rotate-kek`."""

    passphrase: Annotated[Passphrase | None, Hidden] = None
    """For a key that is sealed under a passphrase: that of the new one."""
    new_kek: Annotated[Hex32 | None, Hidden] = None
    """For a key in a systemd credential, which keyd cannot replace: what the new credential holds."""


class BackupMake(Message):
    """`POST /backup`: everything that keyd needs to go on elsewhere, encrypted under a passphrase."""

    passphrase: Annotated[Passphrase, Hidden]


class BackupMade(Message):
    id: str
    size: int
    """Bytes."""
    seq: int
    hash: str
    """Head of the ledger in it."""
    wallets: int


class BackupPart(Message):
    """`GET /backup/{id}?from=OFFSET`: the next bytes. With the last ones keyd forgets the backup."""

    data: Annotated[str, Hidden]
    """Base64."""


class KekRotated(Message):
    id: str
    wallets: int
    finished: bool
    """False: keyd has to be started with the new credential before the old key is worth nothing."""
