"""Wallets on record: made, found, put away, chosen, exported."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from keyd import api
from keyd.core.policy import Deny
from keyd.custody import ethkeystore, keystore, scrypt
from keyd.custody.keystore import parse_private_key
from keyd.custody.wallets import Custody
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.service import Authorized
from ledger.errors import LedgerUnavailable
from tests.keyd.conftest import DEV_KEY, PAYER, Rig

ADMIN = Peer(pid=1, uid=0, gid=0)
PASSPHRASE = "correct horse battery"


@pytest.fixture
def custody(rig: Rig) -> Custody:
    return rig.service.custody


def reason(result: object) -> Reason:
    assert isinstance(result, Deny), result
    return result.reason


def wallet(result: object) -> api.Wallet:
    assert isinstance(result, api.Wallet), result
    return result


async def test_a_wallet_that_is_made_may_sign(rig: Rig, custody: Custody) -> None:
    made = wallet(await custody.create(ADMIN, "research", 5))
    paid = await rig.paid(wallet_id="research")
    assert paid.payment.authorization.from_ == made.address
    assert (made.created_at, made.default, made.archived) == (5, False, False)


async def test_a_file_without_an_entry_signs_nothing_until_it_is_on_record(
    rig: Rig, custody: Custody
) -> None:
    """keyd was killed between the two."""
    rig.wallets.create("orphan", 0)
    assert (await rig.refused(wallet_id="orphan")).reason is Reason.WALLET_MISSING
    assert [d.label for d in custody.wallets().damaged] == ["orphan"]
    await custody.take_stock()
    assert [e.data["label"] for e in rig.entries("wallet.found")] == ["orphan"]
    assert isinstance(await rig.pay(wallet_id="orphan"), Authorized)
    await custody.take_stock()
    assert len(rig.entries("wallet.found")) == 1


async def test_a_wallet_whose_entry_fails_is_found_by_the_next_command(
    rig: Rig, custody: Custody, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rig.ledger.transact

    def full_disk(step: Callable[..., Any]) -> Any:
        return real(step if step == custody.stock_step else fail)

    def fail(_: object) -> None:
        raise LedgerUnavailable("disk full")

    monkeypatch.setattr(rig.ledger, "transact", full_disk)
    with pytest.raises(LedgerUnavailable):
        await custody.create(ADMIN, "research", 0)
    monkeypatch.undo()
    assert reason(await custody.create(ADMIN, "research", 0)) is Reason.WALLET_EXISTS
    assert [e.data["label"] for e in rig.entries("wallet.found")] == ["research"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 99])
async def test_one_damaged_file_hides_no_other_wallet(rig: Rig, custody: Custody, damage: bytes) -> None:
    await custody.create(ADMIN, "a", 0)
    await custody.create(ADMIN, "b", 0)
    (rig.path / "wallets" / "a.json").write_bytes(damage)
    held = custody.wallets()
    assert [w.label for w in held.wallets] == ["b", "default"]
    assert [(d.label, "damaged" in d.problem) for d in held.damaged] == [("a", True)]


async def test_the_lost_key_of_an_archived_wallet_comes_back_archived(rig: Rig, custody: Custody) -> None:
    await custody.archive(ADMIN, "default", even_default=True)
    (rig.path / "wallets" / "default.json").unlink()
    imported = await custody.import_(ADMIN, "default", parse_private_key(DEV_KEY), 0)
    assert isinstance(imported, api.Wallet)
    assert imported.archived
    assert (await rig.refused()).reason is Reason.WALLET_ARCHIVED


async def test_a_lost_file_is_named_and_only_its_own_key_brings_it_back(rig: Rig, custody: Custody) -> None:
    (rig.path / "wallets" / "default.json").unlink()
    assert "its file is missing" in custody.wallets().damaged[0].problem
    assert (await rig.refused()).reason is Reason.WALLET_MISSING
    other = parse_private_key("11" * 32)
    assert reason(await custody.import_(ADMIN, "default", other, 0)) is Reason.WALLET_EXISTS
    assert reason(await custody.create(ADMIN, "default", 0)) is Reason.WALLET_EXISTS
    assert wallet(await custody.import_(ADMIN, "default", parse_private_key(DEV_KEY), 0)).address == PAYER
    await rig.paid()


async def test_a_file_of_another_key_under_a_recorded_label_signs_nothing(rig: Rig, custody: Custody) -> None:
    """Whoever can write files and has the key-encryption key still cannot make keyd pay from another wallet."""
    (rig.path / "wallets" / "default.json").unlink()
    rig.wallets.store("default", parse_private_key("11" * 32), 0)
    refusal = await rig.refused()
    assert (refusal.reason, "address on record" in refusal.detail) == (Reason.WALLET_UNREADABLE, True)
    assert custody.wallets().wallets == []


async def test_a_key_is_one_wallet_and_has_one_label(custody: Custody) -> None:
    """Or whoever archives it under one label would leave it signing under the other."""
    again = await custody.import_(ADMIN, "again", parse_private_key(DEV_KEY), 0)
    assert again == Deny(Reason.WALLET_EXISTS, "wallet 'default' has this key")
    assert [w.label for w in custody.wallets().wallets] == ["default"]


async def test_a_disk_without_room_for_a_wallet_is_said_so(
    rig: Rig, custody: Custody, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keystore, "write_private", full)
    refused = await custody.create(ADMIN, "research", 0)
    monkeypatch.undo()
    why = "wallet 'research' was not made: No space left on device"
    assert refused == Deny(Reason.LEDGER_UNAVAILABLE, why)
    assert [e.data["label"] for e in rig.entries("wallet.created")] == []
    assert wallet(await custody.create(ADMIN, "research", 0)).label == "research"


# -- archived ---------------------------------------------------------------------------------------------


async def test_an_archived_wallet_signs_nothing_not_even_a_repeat(rig: Rig, custody: Custody) -> None:
    await custody.create(ADMIN, "research", 0)
    paid = await rig.paid(wallet_id="research")
    assert wallet(await custody.archive(ADMIN, "research", even_default=False)).archived
    assert (await rig.refused(wallet_id="research")).reason is Reason.WALLET_ARCHIVED
    assert (await rig.refused(what=2, wallet_id="research")).reason is Reason.WALLET_ARCHIVED
    assert [p.payment_id for p in rig.views.open_payments(0, rig.clock()).payments] == [
        paid.payment.payment_id
    ]
    assert rig.entries("wallet.archived")[0].data["open_payments"] == 1


async def test_a_restored_wallet_signs_again_and_a_repeat_costs_nothing(rig: Rig, custody: Custody) -> None:
    await custody.create(ADMIN, "research", 0)
    paid = await rig.paid(wallet_id="research")
    await custody.archive(ADMIN, "research", even_default=False)
    await custody.restore(ADMIN, "research")
    again = await rig.paid(wallet_id="research")
    assert again.signature == paid.signature
    assert rig.view().spent_today == "0.001"


async def test_the_default_wallet_is_not_archived_by_accident(rig: Rig, custody: Custody) -> None:
    assert reason(await custody.archive(ADMIN, "default", even_default=False)) is Reason.WALLET_IS_DEFAULT
    await rig.paid()
    await custody.archive(ADMIN, "default", even_default=True)
    assert (await rig.refused(what=2)).reason is Reason.WALLET_ARCHIVED
    assert any("archived" in problem for problem in rig.service.problems())


async def test_archiving_twice_is_one_entry_and_unknown_labels_are_refused(
    rig: Rig, custody: Custody
) -> None:
    await custody.create(ADMIN, "research", 0)
    for _ in range(2):
        await custody.archive(ADMIN, "research", even_default=False)
    for _ in range(2):
        await custody.restore(ADMIN, "research")
    assert len(rig.entries("wallet.archived")) == len(rig.entries("wallet.restored")) == 1
    assert reason(await custody.archive(ADMIN, "nobody", even_default=True)) is Reason.WALLET_MISSING
    assert reason(await custody.restore(ADMIN, "nobody")) is Reason.WALLET_MISSING


# -- the default ------------------------------------------------------------------------------------------


async def test_the_chosen_default_outlives_a_restart(rig: Rig, make_rig: Callable[..., Rig]) -> None:
    made = wallet(await rig.service.custody.create(ADMIN, "research", 0))
    assert wallet(await rig.service.custody.choose_default(ADMIN, "research")).default
    rig.ledger.close()
    again = make_rig()
    assert again.service.custody.default() == ("research", made.address)
    assert (await again.paid()).payment.authorization.from_ == made.address
    await again.service.custody.choose_default(ADMIN, None)
    assert again.service.custody.default() == ("default", PAYER)
    assert (await again.paid(what=2)).payment.authorization.from_ == PAYER


async def test_a_wallet_that_cannot_pay_is_not_made_the_default(rig: Rig, custody: Custody) -> None:
    await custody.create(ADMIN, "research", 0)
    await custody.archive(ADMIN, "research", even_default=False)
    assert reason(await custody.choose_default(ADMIN, "research")) is Reason.WALLET_ARCHIVED
    assert reason(await custody.choose_default(ADMIN, "nobody")) is Reason.WALLET_MISSING
    assert custody.default() == ("default", PAYER)
    assert rig.entries("wallet.default") == []


async def test_spending_is_told_apart_by_wallet(rig: Rig, custody: Custody) -> None:
    made = wallet(await custody.create(ADMIN, "research", 0))
    await rig.paid(what=1)
    await rig.paid(what=2, wallet_id="research")
    await rig.paid(what=3, wallet_id="research")
    spend = rig.views.spend(api.SpendBy.WALLET, "2026-11-21")
    assert [(row.key, row.usd, row.calls) for row in spend.rows] == [
        ("research", "0.002", 2),
        ("default", "0.001", 1),
    ]
    view = rig.views.wallet(made, rig.clock())
    assert (view.spent, view.spent_today, view.payments, view.open_payments) == ("0.002", "0.002", 2, 2)
    rig.clock.advance(86_400)
    view = rig.views.wallet(made, rig.clock())
    assert (view.spent, view.spent_today) == ("0.002", "0.00")
    assert "USDC" in {token.symbol for token in view.tokens}


# -- exported ---------------------------------------------------------------------------------------------


def export(label: str = "default", confirm: str = "default") -> api.WalletExport:
    return api.WalletExport(label=label, confirm=confirm, passphrase=PASSPHRASE)


async def test_an_export_opens_with_another_implementation(rig: Rig, custody: Custody) -> None:
    exported = await custody.export(ADMIN, export())
    assert isinstance(exported, api.WalletExported)
    assert bytes(Account.decrypt(exported.keystore, PASSPHRASE)).hex() == DEV_KEY
    with pytest.raises(ValueError, match="MAC mismatch"):
        Account.decrypt(exported.keystore, PASSPHRASE + "x")
    [entry] = rig.entries("wallet.exported")
    assert (entry.actor, entry.data) == ("uid:0", {"address": PAYER, "label": "default"})
    words = json.dumps(exported.keystore) + repr(exported) + repr(export()) + json.dumps(dict(entry.data))
    assert DEV_KEY not in words
    assert PASSPHRASE not in words


async def test_an_export_that_cannot_be_recorded_does_not_happen(
    rig: Rig, custody: Custody, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted: list[object] = []
    monkeypatch.setattr(ethkeystore, "encrypt", lambda *_: encrypted.append(1))
    monkeypatch.setattr(Path, "read_text", Path.read_text)
    rig.ledger.close()
    with pytest.raises(LedgerUnavailable):
        await custody.export(ADMIN, export())
    assert encrypted == []


@pytest.mark.parametrize("confirm", ["", "Default", "default ", "yes"])
async def test_an_export_without_the_typed_label_is_refused(rig: Rig, custody: Custody, confirm: str) -> None:
    assert reason(await custody.export(ADMIN, export(confirm=confirm))) is Reason.CONFIRMATION_WRONG
    assert rig.entries("wallet.exported") == []


async def test_an_export_of_nobody_or_of_a_damaged_wallet_is_refused_and_not_recorded(
    rig: Rig, custody: Custody
) -> None:
    assert reason(await custody.export(ADMIN, export("nobody", "nobody"))) is Reason.WALLET_MISSING
    (rig.path / "wallets" / "default.json").write_bytes(b"{}")
    assert reason(await custody.export(ADMIN, export())) is Reason.WALLET_UNREADABLE
    assert rig.entries("wallet.exported") == []


async def test_an_archived_wallet_can_be_exported_to_save_its_money(rig: Rig, custody: Custody) -> None:
    await custody.archive(ADMIN, "default", even_default=True)
    assert isinstance(await custody.export(ADMIN, export()), api.WalletExported)


@pytest.mark.parametrize("seed", range(4))
def test_keystores_agree_with_eth_account_for_any_key(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrypt, "N", 2)
    key = bytes([seed + 1]) * 32
    made = ethkeystore.encrypt(
        parse_private_key(key.hex()), Account.from_key(key).address, "pässphräse €", seeded(seed)
    )
    assert bytes(Account.decrypt(made, "pässphräse €")) == key
    assert "0x" + made["address"] == Account.from_key(key).address.lower()


def seeded(seed: int) -> Callable[[int], bytes]:
    return lambda size: bytes((seed + i) % 256 for i in range(size))


def test_a_passphrase_under_twelve_characters_protects_nothing_that_leaves() -> None:
    short = "x" * (scrypt.MIN_PASSPHRASE - 1)
    with pytest.raises(ValueError, match="at least 12"):
        api.WalletExport(label="a", confirm="a", passphrase=short)
    api.WalletExport(label="a", confirm="a", passphrase=short + "x")


# -- frozen -----------------------------------------------------------------------------------------------


async def test_who_froze_first_stays_and_later_ones_are_on_record(rig: Rig) -> None:
    await rig.admin.freeze(Peer(1, 1001, 1), "too dear")
    rig.clock.advance(60)
    await rig.admin.freeze(Peer(2, 1002, 2), "me too")
    frozen = rig.views.frozen()
    assert (frozen.by, frozen.reason) == ("uid:1001", "too dear")
    assert [(e.actor, e.data["reason"]) for e in rig.entries("x402.frozen")] == [
        ("uid:1001", "too dear"),
        ("uid:1002", "me too"),
    ]
    assert rig.entries("x402.frozen")[1].data["frozen_by"] == "uid:1001"
    await rig.admin.unfreeze(ADMIN)
    assert rig.views.frozen().frozen is False


async def test_an_agent_that_freezes_in_a_loop_fills_no_disk(rig: Rig) -> None:
    for _ in range(100):
        await rig.admin.freeze(Peer(1, 1001, 1), "again")
    assert 2 <= len(rig.entries("x402.frozen")) <= 31
