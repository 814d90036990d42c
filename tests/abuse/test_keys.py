"""Whoever speaks to keyd wants the keys themselves: to take them out, or to have something signed that keyd did not build."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from keyd import api
from keyd.client import KeydClient, KeydRefused
from tests.abuse.support.stage import Stage

ME, SOMEBODY_ELSE = os.getuid(), 64_123
NOBODY: dict[str, list[int]] = {"egress": [], "admin": [], "agent": [], "reconciler": []}
PASSPHRASE = "correct horse battery"
WAYS_OUT: list[Callable[[KeydClient], Awaitable[Any]]] = [
    lambda keyd: keyd.wallet_export(
        api.WalletExport(label="default", confirm="default", passphrase=PASSPHRASE)
    ),
    lambda keyd: keyd.backup(api.BackupMake(passphrase=PASSPHRASE)),
    lambda keyd: keyd.kek_rotate(api.KekRotate(new_kek="11" * 32)),
    lambda keyd: keyd.wallet_import(api.WalletImport(label="mine", private_key="11" * 32)),
    lambda keyd: keyd.wallet_default(api.WalletDefault(label="mine")),
]


@pytest.mark.attack(51)
@pytest.mark.parametrize(
    ("roles", "code"),
    [
        ({"agent": [ME], "egress": [ME], "reconciler": [ME]}, "role_insufficient"),
        ({"admin": [SOMEBODY_ELSE]}, "peer_unknown"),
    ],
    ids=["everybody-but-an-administrator", "stranger"],
)
async def test_only_an_administrator_moves_keys(stage: Stage, roles: dict[str, list[int]], code: str) -> None:
    async with stage.configured("peers", **NOBODY | roles):
        for way in WAYS_OUT:
            with pytest.raises(KeydRefused) as refused:
                await way(stage.keyd)
            assert refused.value.refusal.code == code
    for event in ("wallet.exported", "keyd.backup", "wallet.rekeying", "wallet.imported", "wallet.default"):
        assert not [e for e in stage.payer.entries(event) if e["actor"] == f"uid:{SOMEBODY_ELSE}"]
    assert stage.payer.entries("wallet.exported") == stage.payer.entries("keyd.backup") == []


@pytest.mark.attack(51)
def test_no_message_to_keyd_has_room_for_something_to_sign() -> None:
    """A digest, typed data or a transaction would have to be a member of some request."""
    suspicious = {"digest", "typed_data", "calldata", "preimage", "message", "raw"}
    messages = [
        kind for kind in vars(api).values() if isinstance(kind, type) and issubclass(kind, api.Message)
    ]
    assert len(messages) > 20
    assert [kind.__name__ for kind in messages if suspicious & kind.model_fields.keys()] == []
