"""Setting up: what is there is kept, and what was lost is not quietly made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.config import Settings
from keyd.custody import kek
from keyd.custody.keystore import Keystore
from keyd.setup import SetupError, initialise, key_in_force, refuse_lost_ledger
from ledger.errors import LedgerError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", kek_file=tmp_path / "kek")


def _make_wallet(settings: Settings) -> None:
    key = kek.load(settings.kek_file, {})
    Keystore(settings.wallet_dir, key.kek, lambda size: b"\x07" * size).create("default", 0)


def test_a_ledger_that_is_missing_beside_wallets_is_not_made_anew(settings: Settings) -> None:
    initialise(settings)
    _make_wallet(settings)
    settings.ledger_file.unlink()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite3 is missing, but there are wallets") as lost:
        refuse_lost_ledger(settings)
    assert lost.value.hint
    with pytest.raises(SetupError, match="is missing, but there are wallets"):
        initialise(settings)
    assert not settings.ledger_file.exists()


@pytest.mark.parametrize("unit", [b"missing", b"missing-nixos"])
def test_a_credential_that_is_missing_beside_wallets_is_to_be_put_back(tmp_path: Path, unit: bytes) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "kek").write_bytes(unit)
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    settings = Settings(state_dir=tmp_path / "state")
    with pytest.raises(kek.KekError, match="there is no key-encryption key yet"):
        key_in_force(settings, environment)
    settings.wallet_dir.mkdir(parents=True)
    (settings.wallet_dir / "default.json").touch()
    with pytest.raises(kek.KekError, match="'kek' is missing, but there are wallets") as lost:
        key_in_force(settings, environment)
    assert "osmoda-setup" not in lost.value.hint  # it makes none beside wallets
    assert f"move {settings.state_dir} away and restore a backup" in lost.value.hint


def test_a_key_file_that_is_missing_beside_wallets_is_to_be_put_back(settings: Settings) -> None:
    with pytest.raises(kek.KekError, match="no such file") as never:
        key_in_force(settings, {})
    assert "`osmoda-keyctl init`" in never.value.hint
    initialise(settings)
    assert settings.kek_file is not None
    _make_wallet(settings)
    settings.kek_file.unlink()
    with pytest.raises(kek.KekError, match="kek is missing, but there are wallets") as lost:
        key_in_force(settings, {})
    assert "put it back" in lost.value.hint


def test_without_wallets_a_ledger_is_made(settings: Settings) -> None:
    refuse_lost_ledger(settings)  # before `init`
    initialise(settings)
    refuse_lost_ledger(settings)
    assert settings.ledger_file.exists()


def test_a_ledger_beside_wallets_is_used(settings: Settings) -> None:
    initialise(settings)
    _make_wallet(settings)
    refuse_lost_ledger(settings)
    assert any(line.endswith("exists") for line in initialise(settings))


def test_no_new_key_is_made_beside_wallets_of_a_lost_one(settings: Settings) -> None:
    """It would open none of them; perhaps the old one is on a disk that is not mounted."""
    initialise(settings)
    _make_wallet(settings)
    assert settings.kek_file is not None
    lost = settings.kek_file.rename(settings.kek_file.with_name("elsewhere"))
    with pytest.raises(SetupError, match="is missing, but there are wallets that it seals") as refused:
        initialise(settings)
    assert "put it back" in refused.value.hint
    assert not settings.kek_file.exists()
    lost.rename(settings.kek_file)
    initialise(settings)
