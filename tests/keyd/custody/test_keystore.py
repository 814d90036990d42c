"""Wallet files and the key that wraps them."""

from __future__ import annotations

import json
import pickle
import secrets
import stat
from pathlib import Path
from typing import Any

import pytest

from keyd.custody import kek
from keyd.custody.kek import Kek
from keyd.custody.keystore import Keystore, WalletExists, WalletMissing, WalletUnreadable, parse_private_key
from keyd.custody.secret import Secret

DEV_KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
DEV_ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@pytest.fixture
def wallets(tmp_path: Path) -> Keystore:
    return Keystore(tmp_path / "wallets", Kek(bytes(range(32))), secrets.token_bytes)


def test_a_stored_wallet_opens_again_with_the_same_key(wallets: Keystore) -> None:
    info = wallets.store("main", parse_private_key("0x" + DEV_KEY), 1_800_000_000)
    assert info.address == DEV_ADDRESS
    assert wallets.open("main").address == DEV_ADDRESS
    assert wallets.infos() == ([info], {})


def test_created_wallets_differ(wallets: Keystore) -> None:
    assert wallets.create("a", 0).address != wallets.create("b", 0).address


def test_the_file_is_private_and_holds_no_key_in_the_clear(wallets: Keystore, tmp_path: Path) -> None:
    wallets.store("main", parse_private_key(DEV_KEY), 0)
    [path] = (tmp_path / "wallets").iterdir()  # no temporary file is left either
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    content = path.read_bytes()
    assert DEV_KEY.encode() not in content
    assert bytes.fromhex(DEV_KEY) not in content


def test_a_wallet_opens_while_another_key_is_put_in_force(wallets: Keystore) -> None:
    """Payments are decided in another thread: one must not be refused because the key changed under its hands."""
    old, new = wallets.kek, Kek(bytes([9] * 32))

    class Replaced(Kek):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            if name == "id":
                wallets.kek = new
            return super().__getattribute__(name)

    wallets.store("main", parse_private_key(DEV_KEY), 0)
    wallets.add_seal("main", new)
    wallets.kek = Replaced(old.reveal())
    assert wallets.open("main").address == DEV_ADDRESS
    assert wallets.kek is new
    assert wallets.open("main").address == DEV_ADDRESS


def test_a_wallet_is_never_overwritten(wallets: Keystore) -> None:
    wallets.store("main", parse_private_key(DEV_KEY), 0)
    with pytest.raises(WalletExists):
        wallets.create("main", 0)
    assert wallets.open("main").address == DEV_ADDRESS


@pytest.mark.parametrize("member", ["address", "label", "kek", "nonce", "ciphertext", "version"])
def test_a_file_with_any_changed_member_does_not_open(wallets: Keystore, tmp_path: Path, member: str) -> None:
    wallets.store("main", parse_private_key(DEV_KEY), 0)
    path = tmp_path / "wallets" / "main.json"
    document = json.loads(path.read_bytes())
    holder = document if member in document else document["seals"][0]
    changes = {"address": "0x" + "11" * 20, "label": "other", "version": 1}
    flipped = "1" if str(holder[member])[-1] == "0" else "0"
    holder[member] = changes.get(member, str(holder[member])[:-1] + flipped)
    path.write_text(json.dumps(document))
    with pytest.raises(WalletUnreadable):
        wallets.open("main")


def test_a_file_that_was_renamed_to_another_label_does_not_open(wallets: Keystore, tmp_path: Path) -> None:
    wallets.store("main", parse_private_key(DEV_KEY), 0)
    (tmp_path / "wallets" / "main.json").rename(tmp_path / "wallets" / "other.json")
    with pytest.raises(WalletUnreadable):
        wallets.open("other")
    with pytest.raises(WalletMissing):
        wallets.open("main")


def test_another_key_encryption_key_does_not_open_it(wallets: Keystore, tmp_path: Path) -> None:
    wallets.store("main", parse_private_key(DEV_KEY), 0)
    stranger = Keystore(tmp_path / "wallets", Kek(bytes(32)), secrets.token_bytes)
    with pytest.raises(WalletUnreadable, match="is sealed under key"):
        stranger.open("main")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_unreadable_not_a_crash(wallets: Keystore, tmp_path: Path, content: bytes) -> None:
    wallets.create("main", 0)
    (tmp_path / "wallets" / "main.json").write_bytes(content)
    with pytest.raises(WalletUnreadable):
        wallets.open("main")


@pytest.mark.parametrize("label", ["../main", "a/b", "", ".hidden", "Main", "a" * 64])
def test_a_label_cannot_leave_the_wallet_folder(wallets: Keystore, label: str) -> None:
    with pytest.raises(WalletMissing):
        wallets.open(label)


@pytest.mark.parametrize("text", ["", "0x12", "zz" * 32, "00" * 32, "ff" * 32, DEV_KEY + "00"])
def test_a_bad_private_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="private key") as caught:
        parse_private_key(text)
    assert not text or text not in str(caught.value)


def test_a_secret_cannot_be_printed_or_pickled() -> None:
    secret = Secret(b"hunter2")
    assert "hunter2" not in f"{secret} {secret!r}"
    with pytest.raises(TypeError, match="does not leave"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_a_key_file_is_created_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "kek"
    assert kek.create(path, lambda size: bytes(range(size))) is True
    assert kek.create(path, bytes) is False
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kek.load(path, {}).kek == Secret(bytes(range(32)))


@pytest.mark.parametrize(
    ("says", "hint"), [(b"missing", "run `osmoda-setup` as root"), (b"missing-nixos", "docs/nixos.md")]
)
def test_a_credential_that_was_never_made_names_who_makes_it(tmp_path: Path, says: bytes, hint: str) -> None:
    (tmp_path / "kek").write_bytes(says)
    with pytest.raises(kek.KekError, match="no key-encryption key yet") as missing:
        kek.load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert hint in missing.value.hint


def test_without_a_key_file_the_systemd_credential_is_used(tmp_path: Path) -> None:
    (tmp_path / "kek").write_bytes(bytes(range(32)))
    assert kek.load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).kek == Secret(bytes(range(32)))
    with pytest.raises(kek.KekError, match="no key-encryption key"):
        kek.load(None, {})


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    kek.create(path, bytes)
    path.chmod(0o640)
    with pytest.raises(kek.KekError, match="can be read by others"):
        kek.load(path, {})


@pytest.mark.parametrize("content", [b"", b"abc", b"0" * 63, b"0" * 65, bytes(33)])
def test_a_file_that_holds_no_key_is_refused_without_being_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kek"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(kek.KekError, match="holds no key"):
        kek.load(path, {})
