"""Transcripts of `keyctl init`, `check-config` and `health`."""

from __future__ import annotations

import stat

import pytest

from keyd import api

HEALTH = api.Health(status="ok", api_version=1, version="0.1.0", ledger_entries=7, problems=[])


@pytest.fixture
def config(tmp_path):
    def write(**changes: str):
        settings = {"socket": f'"{tmp_path}/keyd.sock"', "state_dir": f'"{tmp_path}/state"'}
        settings |= {"kek_file": f'"{tmp_path}/secret/kek"'} | changes
        file = tmp_path / "keyd.toml"
        file.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        return file

    return write


def test_init_makes_key_folder_and_ledger_and_keyctl_verifies_it(keyctl, config, tmp_path):
    result = keyctl("--config", config(), "init")
    assert (result.code, result.err) == (0, "")
    kek = tmp_path / "secret" / "kek"
    assert stat.S_IMODE(kek.stat().st_mode) == 0o600
    assert kek.read_text().strip() not in result.out
    ledger = tmp_path / "state" / "ledger.sqlite3"
    verified = keyctl("ledger", "verify", "--file", ledger)
    assert (verified.code, verified.out.splitlines()[0]) == (0, "ledger verified: 0 entries")


def test_init_repeated_leaves_the_key_alone(keyctl, config, tmp_path):
    file = config()
    assert keyctl("--config", file, "init").code == 0
    key = (tmp_path / "secret" / "kek").read_bytes()
    again = keyctl("--config", file, "init")
    assert again.code == 0
    assert "exists" in again.out
    assert "created" not in again.out
    assert (tmp_path / "secret" / "kek").read_bytes() == key


def test_init_says_what_it_cannot_make(keyctl, config, tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    result = keyctl("--config", config(), "init")
    assert result.code == 1
    assert result.err.startswith("keyctl: error: ")
    assert f"{tmp_path}/state" in result.err
    assert "bug" not in result.err


def test_verify_of_a_file_that_is_no_ledger_says_so(keyctl, tmp_path):
    file = tmp_path / "ledger.sqlite3"
    file.write_bytes(b"not a database" * 100)
    result = keyctl("ledger", "verify", "--file", file)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("keyctl: error: ")
    assert "bug" not in result.err


def test_verify_of_a_missing_file_says_so_and_makes_none(keyctl, tmp_path):
    result = keyctl("ledger", "verify", "--file", tmp_path / "none.sqlite3")
    assert (result.code, result.out) == (1, "")
    assert "none.sqlite3" in result.err
    assert not (tmp_path / "none.sqlite3").exists()


def test_a_good_configuration_is_ok(keyctl, config):
    file = config()
    result = keyctl("check-config", file)
    assert (result.code, result.out, result.err) == (0, f"{file}: ok\n", "")


def test_the_file_to_check_may_come_from_config(keyctl, config):
    file = config()
    assert keyctl("--config", file, "check-config").out == f"{file}: ok\n"


def test_a_misspelt_key_is_named_with_those_that_exist(keyctl, config):
    result = keyctl("check-config", config(sokket='"x"'))
    assert (result.code, result.out) == (1, "")
    assert "sokket" in result.err
    assert "known: " in result.err
    assert "keyctl: hint: " in result.err


@pytest.mark.parametrize("text", ["socket = ", 'socket = "a"\nsocket = "b"', "\x00"])
def test_what_is_not_toml_is_an_error_in_words(keyctl, tmp_path, text):
    file = tmp_path / "keyd.toml"
    file.write_text(text)
    result = keyctl("check-config", file)
    assert (result.code, result.out) == (1, "")
    assert "not valid TOML" in result.err


def test_the_configuration_of_egress_is_sent_to_egress(keyctl, tmp_path):
    file = tmp_path / "egress.toml"
    file.write_text('listen = "127.0.0.1:19999"\n')
    result = keyctl("check-config", file)
    assert result.code == 1
    assert result.err == (
        f"keyctl: error: {file} is a configuration of egress, not of keyd\n"
        f"keyctl: hint: check it with `osmoda-egress --config {file} --check`\n"
    )


def test_health_is_success_only_if_keyd_can_pay(keyd, ask):
    keyd.answers["health"] = HEALTH
    result = ask("health")
    assert (result.code, result.out, result.err) == (0, "keyd 0.1.0: ok, 7 ledger entries\n", "")
    keyd.answers["health"] = HEALTH.model_copy(
        update={"status": "degraded", "problems": ["there is no wallet"]}
    )
    result = ask("health")
    assert (result.code, result.out) == (1, "keyd 0.1.0: degraded, 7 ledger entries\n")
    assert result.err.startswith(
        "keyctl: error: there is no wallet\nkeyctl: error: keyd runs but cannot pay\n"
    )


def test_health_json_is_keyds_answer(keyd, ask):
    keyd.answers["health"] = HEALTH
    assert api.Health.model_validate_json(ask("health", "--json").out) == HEALTH
