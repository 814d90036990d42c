"""Changing the key-encryption key, with keyd killed at every step that reaches the disk."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyd import api, files
from keyd.core.policy import Deny
from keyd.custody import kek, scrypt
from keyd.custody.kek import Kek, KekError
from keyd.custody.keystore import WalletUnreadable
from keyd.peer import Peer
from keyd.reasons import Reason
from tests.keyd.conftest import Rig
from tests.keyd.custody.support import LABELS, PASSPHRASE, Vault

ADMIN = Peer(pid=1, uid=0, gid=0)


class Killed(BaseException):
    """Nothing catches this: what was on the disk is what the next start finds."""


class Disk:
    """Stands in front of `os` in keyd.files, and kills keyd before or after step number `last`."""

    def __init__(self, last: int, *, after: bool) -> None:
        self.steps = itertools.count()
        self.last = last
        self.after = after

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in {"open", "fsync", "replace", "link"}:
            return real

        def step(*arguments: object) -> object:
            due = next(self.steps) == self.last
            if due and not self.after:
                raise Killed
            result = real(*arguments)
            if due:
                raise Killed
            return result

        return step


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Callable[..., Vault]]:
    opened: list[Vault] = []

    def start(passphrase: str | None = None) -> Vault:
        for earlier in opened:
            earlier.ledger.close()
        opened.append(Vault(tmp_path, passphrase))
        return opened[-1]

    yield start
    for each in opened:
        each.ledger.close()


async def begun(start: Callable[..., Vault], passphrase: str | None = None) -> Vault:
    """A keyd with a few wallets."""
    vault = start(passphrase)
    for label in LABELS:
        assert isinstance(await vault.custody.create(ADMIN, label, 0), api.Wallet)
    return vault


async def test_every_wallet_opens_under_the_new_key_and_none_under_the_old(
    vault: Callable[..., Vault],
) -> None:
    first = await begun(vault)
    old, before = first.source.kek, first.addresses()
    done = await first.rotation.rotate(ADMIN, api.KekRotate())
    assert isinstance(done, api.KekRotated)
    assert (done.wallets, done.finished) == (3, True)
    assert first.addresses() == before
    again = vault()
    assert again.source.kek.id == done.id != old.id
    assert again.addresses() == before
    again.keystore.kek = old
    for label in LABELS:
        with pytest.raises(WalletUnreadable, match="is sealed under key"):
            again.keystore.open(label)
    assert again.types() == ["wallet.rekeying", "wallet.rekeyed"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_any_step_every_wallet_opens_at_the_next_start(
    vault: Callable[..., Vault], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps of one rotation after the other, each killed one step later than the last."""
    current = await begun(vault)
    before, outcomes = current.addresses(), set()
    for last in itertools.count():
        disk = Disk(last, after=after)
        monkeypatch.setattr(files, "os", disk)
        try:
            await current.rotation.rotate(ADMIN, api.KekRotate())
        except Killed:
            killed = True
        else:
            killed = False
        monkeypatch.setattr(files, "os", os)
        in_force = current.source.kek.id
        current = vault()
        await current.start()
        assert current.addresses() == before, last
        assert current.rotation.view().id == current.source.kek.id
        outcomes.add(current.source.kek.id == in_force)
        if not killed:
            break
    assert last > 30  # every write of four files, twice
    assert outcomes == {True, False}  # some were killed before the switch, some after it
    assert current.rotation.view().next is None
    assert {len(current.keystore.kek_ids(label)) for label in LABELS} == {1}


def die(folder: Path, what: str, last: int) -> None:
    program = [sys.executable, "-m", "tests.keyd.custody.support", str(folder), what, str(last)]
    done = subprocess.run(program, timeout=240, check=False, capture_output=True)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize(("last", "found"), [(0, False), (1, True)], ids=["before-its-name", "after"])
def test_a_process_killed_while_a_wallet_is_made_leaves_none_that_is_not_on_record(
    tmp_path: Path, last: int, found: bool
) -> None:
    die(tmp_path, "create", last)
    vault = Vault(tmp_path, None)
    try:
        assert ("late" in vault.keystore.labels()) is found
        asyncio.run(vault.start())
        held = vault.custody.wallets()
        assert ("late" in {wallet.label for wallet in held.wallets}) is found
        assert held.damaged == []
        assert [path.name for path in (tmp_path / "wallets").glob(".*")] == []  # what the kill left half done
        types = [e.type for e in vault.ledger.entries(limit=100)]
        assert types.count("wallet.found") == found
    finally:
        vault.ledger.close()


@pytest.mark.parametrize("last", [0, 3, 6, 7, 8, 13])
def test_a_process_that_is_really_killed_loses_no_wallet(tmp_path: Path, last: int) -> None:
    die(tmp_path, "rotate", last)
    vault = Vault(tmp_path, None)
    try:
        asyncio.run(vault.start())
        assert set(vault.addresses()) == set(LABELS)
        assert [w.label for w in vault.custody.wallets().wallets] == sorted(LABELS)
    finally:
        vault.ledger.close()


def test_a_new_key_that_a_kill_left_half_written_is_taken_away_and_nothing_else(tmp_path: Path) -> None:
    die(tmp_path, "rotate", 6)
    assert len(list(tmp_path.glob(".kek.*"))) == 1  # it holds a key
    others = [".kek.notes", ".other.0123456789abcdef", ".kek.0123456789ABCDEZ"]
    for name in others:
        (tmp_path / name).touch()
    vault = Vault(tmp_path, None)
    try:
        asyncio.run(vault.start())
        assert sorted(path.name for path in tmp_path.glob(".*")) == sorted(others)
    finally:
        vault.ledger.close()


async def test_after_a_kill_no_wallet_is_made_that_the_next_key_would_not_open(
    vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await begun(vault)
    monkeypatch.setattr(files, "os", Disk(0, after=False))
    with pytest.raises(Killed):
        await first.rotation.rotate(ADMIN, api.KekRotate())
    monkeypatch.setattr(files, "os", os)
    again = vault()
    await again.start()
    assert again.rotation.view().next is not None
    refused = await again.custody.create(ADMIN, "late", 0)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.KEK_ROTATION
    await again.rotation.rotate(ADMIN, api.KekRotate())
    assert isinstance(await again.custody.create(ADMIN, "late", 0), api.Wallet)


# -- a systemd credential, which is root's to replace -------------------------------------------------------


async def test_a_new_credential_is_in_force_from_the_start_that_gets_it(rig: Rig) -> None:
    new = Kek(b"\x07" * 32)
    done = await rig.rotation.rotate(ADMIN, api.KekRotate(new_kek=new.reveal().hex()))
    assert isinstance(done, api.KekRotated)
    assert (done.id, done.finished) == (new.id, False)
    await rig.paid()  # under the old key still
    await rig.service.custody.create(ADMIN, "late", 0)
    assert rig.wallets.kek_ids("late") == rig.wallets.kek_ids("default") == [Kek(bytes(32)).id, new.id]
    assert rig.rotation.view().next == new.id

    rig.wallets.pending, rig.wallets.kek = (), new  # the restart
    rig.rotation._source = kek.Source(new, kek.Kind.CREDENTIAL, None)
    await rig.rotation.at_start()
    assert rig.wallets.kek_ids("late") == rig.wallets.kek_ids("default") == [new.id]
    assert rig.rotation.view().next is None
    assert rig.entries("wallet.rekeyed")[0].actor == "keyd"
    await rig.paid(what=2)


async def test_a_start_with_the_old_credential_forgets_no_newer_key(rig: Rig) -> None:
    """Root may put the new credential in force at any moment after it."""
    new = Kek(b"\x07" * 32)
    await rig.rotation.rotate(ADMIN, api.KekRotate(new_kek=new.reveal().hex()))
    await rig.rotation.at_start()
    assert rig.wallets.kek_ids("default") == [Kek(bytes(32)).id, new.id]
    assert rig.entries("wallet.rekeyed") == []


async def test_a_start_with_a_foreign_key_changes_nothing_and_pays_nothing(rig: Rig) -> None:
    await rig.rotation.rotate(ADMIN, api.KekRotate(new_kek="07" * 32))
    before = rig.wallets.kek_ids("default")
    foreign = Kek(b"\x09" * 32)
    rig.wallets.pending, rig.wallets.kek = (), foreign
    rig.rotation._source = kek.Source(foreign, kek.Kind.CREDENTIAL, None)
    await rig.rotation.at_start()
    assert rig.wallets.kek_ids("default") == before
    assert rig.entries("wallet.rekeyed") == []
    assert (await rig.refused()).reason is Reason.WALLET_UNREADABLE


@pytest.mark.parametrize("message", [api.KekRotate(), api.KekRotate(passphrase=PASSPHRASE)])
async def test_a_credential_is_not_changed_without_its_successor(rig: Rig, message: api.KekRotate) -> None:
    refused = await rig.rotation.rotate(ADMIN, message)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.KEK_ROTATION
    assert rig.entries() == []


async def test_a_wallet_that_does_not_open_stops_the_change(rig: Rig) -> None:
    """It would be lost for good with the old key."""
    (rig.path / "wallets" / "default.json").write_bytes(b"{}")
    refused = await rig.rotation.rotate(ADMIN, api.KekRotate(new_kek="07" * 32))
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.WALLET_UNREADABLE
    assert rig.entries("wallet.rekeying") == []


# -- a key under a passphrase -----------------------------------------------------------------------------


async def test_a_key_under_a_passphrase_changes_with_a_passphrase(
    vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrypt, "N", 2)
    first = await begun(vault, PASSPHRASE)
    before = first.addresses()
    refused = await first.rotation.rotate(ADMIN, api.KekRotate())
    assert isinstance(refused, Deny)
    done = await first.rotation.rotate(ADMIN, api.KekRotate(passphrase="another long passphrase"))
    assert isinstance(done, api.KekRotated)
    with pytest.raises(KekError, match="does not open"):
        vault(PASSPHRASE)
    again = vault("another long passphrase")
    assert again.addresses() == before
    assert again.source.kek.id == done.id


async def test_a_folder_that_keyd_cannot_write_to_stops_the_change_before_it_begins(
    vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await begun(vault)
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused = await first.rotation.rotate(ADMIN, api.KekRotate())
    assert isinstance(refused, Deny)
    assert "cannot write" in refused.detail
    assert first.types() == []


async def test_a_full_disk_leaves_the_old_key_in_force(
    vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await begun(vault)
    before, old = first.addresses(), first.source.kek.id

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "wallets/a.json")

    monkeypatch.setattr(files.os, "fsync", full)
    refused = await first.rotation.rotate(ADMIN, api.KekRotate())
    monkeypatch.undo()
    assert isinstance(refused, Deny)
    assert "No space left" in refused.detail
    assert first.addresses() == before
    assert vault().source.kek.id == old
