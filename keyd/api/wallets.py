"""Messages about wallets. No message carries a key out of keyd."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from keyd.api.base import Label, Message


class WalletCreate(Message):
    label: Label


class WalletImport(Message):
    label: Label
    private_key: Annotated[str, StringConstraints(max_length=70)]
    """32 bytes in hex, with or without 0x."""

    def __repr__(self) -> str:
        return f"WalletImport(label={self.label!r}, private_key=…)"

    __str__ = __repr__


class Wallet(Message):
    label: str
    address: str
    """EIP-55 checksummed."""
    created_at: int
    default: bool


class WalletList(Message):
    wallets: list[Wallet]
