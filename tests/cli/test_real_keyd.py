"""The fake of the other transcripts, checked against the real thing: keyctl and keyd as two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from keyd import api

KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"

HALF_WRITTEN = ".ledger-key.json.0123456789abcdef"


@pytest.fixture
def real(keyctl, tmp_path):
    """keyctl against a keyd that was set up by `keyctl init`; this user has every role."""
    config = tmp_path / "keyd.toml"
    config.write_text(
        f'socket = "{tmp_path}/keyd.sock"\nstate_dir = "{tmp_path}/state"\nkek_file = "{tmp_path}/kek"\n'
        f"[peers]\nadmin = [{os.geteuid()}]\negress = [{os.geteuid()}]\n"
        '[x402]\nallowed_domains = ["api.example.com", "*.example.org", "http://127.0.0.1:4021"]\n'
    )
    assert keyctl("--config", config, "init").code == 0
    (tmp_path / "state" / HALF_WRITTEN).touch()
    command = [sys.executable, "-m", "keyd", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "keyd.ready" in line:
                break
        yield lambda *arguments: keyctl("--config", config, *arguments)
        daemon.send_signal(signal.SIGTERM)
        daemon.stderr.read()


def test_a_first_session_from_no_wallet_to_a_verified_ledger(real, tmp_path):
    before = real("health")
    assert before.code == 1
    assert "degraded" in before.out
    assert "keyctl: error: there is no wallet 'default' (wallet_missing)\n" in before.err

    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    imported = real("wallet", "import", "default", "--key-file", key_file)
    assert (imported.code, imported.out, imported.err) == (0, f"imported wallet default: {ADDRESS}\n", "")
    assert real("wallet", "create", "second").code == 0
    again = real("wallet", "create", "second")
    assert again.code == 1
    assert "keyctl: error: there is a wallet 'second' already (wallet_exists)\n" in again.err
    unknown = real("x402", "approve", "abc")
    assert "keyctl: error: nothing waits under abc (proposal_unknown)\n" in unknown.err
    assert real("health").code == 0

    wallets = api.WalletList.model_validate_json(real("wallet", "list", "--json").out).wallets
    assert [(wallet.label, wallet.default) for wallet in wallets] == [("default", True), ("second", False)]

    policy = json.loads(real("x402", "policy", "--json").out)
    assert (policy["daily_budget"], policy["spent_today"], policy["left_today"]) == ("1.00", "0.00", "1.00")
    assert policy["allowed_domains"] == ["api.example.com", "*.example.org", "http://127.0.0.1:4021"]
    assert "You have spent $0.00 of $1.00 today" in real("x402", "policy").out

    entries = [json.loads(line) for line in real("ledger", "tail", "--json").out.splitlines()]
    started = ["keyd.started", "x402.policy.changed"]  # the base on its first start
    assert [entry["type"] for entry in entries] == [*started, "wallet.imported", "wallet.created"]
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4]
    assert KEY not in json.dumps(entries)

    verified = real("ledger", "verify")
    assert (verified.code, verified.err) == (0, "")
    assert verified.out == f"ledger verified: 4 entries\nhead: 4 {entries[-1]['hash']}\n"
    offline = real("ledger", "verify", "--file", tmp_path / "state" / "ledger.sqlite3")
    assert offline.out == verified.out


def test_a_start_takes_away_what_a_killed_keyd_left_half_written(real, tmp_path):
    assert real("health").code == 1  # it answers; without a wallet it cannot pay
    assert HALF_WRITTEN not in [path.name for path in (tmp_path / "state").iterdir()]


def test_keyd_refuses_a_key_of_zero_in_words(real, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text("0" * 64)
    key_file.chmod(0o600)
    result = real("wallet", "import", "default", "--key-file", key_file)
    assert result.code == 1
    assert "(request_malformed)" in result.err
