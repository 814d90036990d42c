"""Transcripts of `keyctl wallet`: keys go in, and are never seen again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import subprocess
import sys

import pytest
from eth_account import Account
from eth_utils import keccak

from keyd import api

# The first account of Hardhat and anvil: public, holds nothing.
KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
MNEMONIC = "test test test test test test test test test test test junk"
SECOND_KEY = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # m/44'/60'/0'/0/1
WALLET = api.Wallet(label="main", address=ADDRESS, created_at=1795219200, default=True)


@pytest.fixture
def secret_file(tmp_path):
    def write(content: str | bytes, mode: int = 0o600):
        path = tmp_path / "secret"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    return write


@pytest.fixture(scope="module")
def keystore():
    return json.dumps(Account.encrypt(KEY, "correct horse", kdf="pbkdf2", iterations=1000))


def imported(keyd) -> dict[str, str]:
    """The body of the one import keyd was asked for."""
    (question,) = keyd.asked
    assert question[0] == "wallet_import"
    return json.loads(question[1])


def test_create_names_the_address(keyd, ask):
    keyd.answers["wallet_create"] = WALLET
    result = ask("wallet", "create", "main")
    assert (result.code, result.out, result.err) == (0, f"created wallet main: {ADDRESS}\n", "")
    assert keyd.asked == [("wallet_create", '{"label":"main"}')]


@pytest.mark.parametrize("label", ["Main", "../main", "-x", "", "a" * 64, "main\n"])
def test_a_label_that_is_no_label_is_a_usage_error_and_keyd_is_not_asked(keyd, ask, label):
    result = ask("wallet", "create", "--", label)
    assert result.code == 2
    assert "lower-case letters" in result.err
    assert keyd.asked == []


def test_a_taken_label_is_keyds_refusal(keyd, ask):
    keyd.answers["wallet_create"] = api.Refusal(
        code="wallet_exists", detail='wallet "main"', hint="Another one."
    )
    result = ask("wallet", "create", "main")
    assert (result.code, result.out) == (1, "")
    assert result.err == 'keyctl: error: wallet "main" (wallet_exists)\nkeyctl: hint: Another one.\n'


@pytest.mark.parametrize("written", [KEY, "0x" + KEY, KEY.upper(), f"  {KEY}\n"])
def test_a_hex_key_reaches_keyd_in_one_form(keyd, ask, secret_file, written):
    keyd.answers["wallet_import"] = WALLET
    result = ask("wallet", "import", "main", "--key-file", secret_file(written))
    assert (result.code, result.out, result.err) == (0, f"imported wallet main: {ADDRESS}\n", "")
    assert imported(keyd) == {"label": "main", "private_key": KEY}


@pytest.mark.parametrize(
    "written", ["", KEY[:-1], KEY + "0", KEY[:-1] + "g", f"{KEY} {KEY}", b"\xff" * 32, "0" * 70_000]
)
def test_a_file_that_holds_no_key_is_refused_and_not_quoted(keyd, ask, secret_file, written):
    result = ask("wallet", "import", "main", "--key-file", secret_file(written))
    assert (result.code, result.out, keyd.asked) == (1, "", [])
    assert result.err.startswith("keyctl: error: ")
    assert KEY[:16] not in result.err


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_open_to_others_is_imported_with_a_warning(keyd, ask, secret_file, mode):
    keyd.answers["wallet_import"] = WALLET
    file = secret_file(KEY, mode)
    result = ask("wallet", "import", "main", "--key-file", file)
    assert result.code == 0
    assert f"keyctl: warning: {file} is open to other users of this machine" in result.err
    assert f"keyctl: hint: `chmod 600 {file}`" in result.err
    assert KEY not in result.out + result.err


def test_a_missing_key_file_is_named(ask, tmp_path):
    result = ask("wallet", "import", "main", "--key-file", tmp_path / "none")
    assert result.code == 1
    assert result.err == f"keyctl: error: cannot read {tmp_path}/none: no such file or directory\n"


@pytest.mark.parametrize("typed", [False, True])
def test_a_key_can_come_from_standard_input_and_is_not_shown(keyd, ask, monkeypatch, typed):
    keyd.answers["wallet_import"] = WALLET
    standard_input = io.TextIOWrapper(io.BytesIO(f"{KEY}\n".encode()))
    standard_input.isatty = lambda: typed
    monkeypatch.setattr("sys.stdin", standard_input)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: KEY)
    result = ask("wallet", "import", "main", "--key-file", "-")
    assert (result.code, KEY in result.out + result.err) == (0, False)
    assert imported(keyd) == {"label": "main", "private_key": KEY}


@pytest.mark.parametrize(("option", "pasted"), [("--key-file", "0x" + KEY), ("--mnemonic-file", MNEMONIC)])
def test_a_key_pasted_for_a_file_name_is_not_repeated(keyd, ask, option, pasted):
    result = ask("wallet", "import", "main", option, pasted)
    assert (result.code, keyd.asked) == (1, [])
    assert "a key was given where the name of a file belongs" in result.err
    assert pasted not in result.out + result.err


def test_a_keystore_of_something_else_is_refused_without_showing_it(keyd, ask, secret_file, tmp_path):
    password = tmp_path / "password"
    password.write_text("x")
    password.chmod(0o600)
    keystore = Account.encrypt(KEY, "x", kdf="pbkdf2", iterations=1000)
    cipher, parameters = keystore["crypto"], keystore["crypto"]["kdfparams"]
    cipher["ciphertext"] += "00" * 8  # 40 bytes, with a MAC that agrees
    derived = hashlib.pbkdf2_hmac("sha256", b"x", bytes.fromhex(parameters["salt"]), 1000)
    cipher["mac"] = keccak(derived[16:32] + bytes.fromhex(cipher["ciphertext"])).hex()
    file = secret_file(json.dumps(keystore))
    result = ask("wallet", "import", "main", "--keystore", file, "--password-file", password)
    assert (result.code, keyd.asked) == (1, [])
    assert result.err == f"keyctl: error: {file} holds something else than a private key of 32 bytes\n"


def test_a_keystore_opens_with_its_password(keyd, ask, secret_file, keystore, tmp_path):
    keyd.answers["wallet_import"] = WALLET
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)
    result = ask("wallet", "import", "main", "--keystore", secret_file(keystore), "--password-file", password)
    assert (result.code, result.err) == (0, "")
    assert imported(keyd)["private_key"] == KEY


def test_a_wrong_password_opens_nothing_and_is_not_quoted(keyd, ask, secret_file, keystore, tmp_path):
    password = tmp_path / "password"
    password.write_text("wrong horse")
    password.chmod(0o600)
    file = secret_file(keystore)
    result = ask("wallet", "import", "main", "--keystore", file, "--password-file", password)
    assert (result.code, result.err) == (1, f"keyctl: error: the password does not open {file}\n")
    assert keyd.asked == []


def test_without_a_terminal_the_password_must_come_from_a_file(keyd, ask, secret_file, keystore):
    result = ask("wallet", "import", "main", "--keystore", secret_file(keystore))
    assert result.code == 1
    assert "keyctl: hint: give it with --password-file\n" in result.err
    assert keyd.asked == []


def test_on_a_terminal_the_password_is_asked_for_and_not_shown(keyd, secret_file, keystore):
    keyd.answers["wallet_import"] = WALLET
    command = [sys.executable, "-c", "from keyd.cli import main; main()", "--socket", str(keyd.socket)]
    command += ["wallet", "import", "main", "--keystore", str(secret_file(keystore))]
    terminal, child_side = pty.openpty()
    # A session of its own, whose controlling terminal is the pty: getpass() opens /dev/tty.
    shell = ["setsid", "--ctty", "--wait", *command]
    with subprocess.Popen(shell, stdin=child_side, stdout=child_side, stderr=child_side) as child:
        os.close(child_side)
        seen = b""
        while b"Password of" not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, b"correct horse\n")
        while b"imported" not in seen:
            seen += os.read(terminal, 4096)
        assert child.wait(240) == 0
    os.close(terminal)
    assert b"correct horse" not in seen
    assert imported(keyd)["private_key"] == KEY


@pytest.mark.parametrize(
    "broken",
    [
        "not json",
        "[]",
        '{"version": 1}',
        '{"version": 3}',
        '{"version": 3, "crypto": 7}',
        '{"version": 3, "crypto": {"kdf": "rot13"}}',
        "[" * 60_000,
    ],
)
def test_a_broken_keystore_is_an_error_in_words(keyd, ask, secret_file, broken, tmp_path):
    password = tmp_path / "password"
    password.write_text("x")
    password.chmod(0o600)
    result = ask("wallet", "import", "main", "--keystore", secret_file(broken), "--password-file", password)
    assert (result.code, keyd.asked) == (1, [])
    assert "keystore" in result.err
    assert "bug" not in result.err


def test_a_mnemonic_gives_the_first_account(keyd, ask, secret_file):
    keyd.answers["wallet_import"] = WALLET
    result = ask("wallet", "import", "main", "--mnemonic-file", secret_file(MNEMONIC.replace(" ", "\n")))
    assert (result.code, result.err) == (0, "")
    assert imported(keyd)["private_key"] == KEY


def test_a_derivation_path_gives_another_account(keyd, ask, secret_file):
    keyd.answers["wallet_import"] = WALLET
    path = "m/44'/60'/0'/0/1"
    result = ask(
        "wallet", "import", "main", "--mnemonic-file", secret_file(MNEMONIC), "--derivation-path", path
    )
    assert (result.code, imported(keyd)["private_key"]) == (0, SECOND_KEY)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (MNEMONIC.replace("junk", "test"), "m/44'/60'/0'/0/0"),  # checksum
        ("hello world", "m/44'/60'/0'/0/0"),
        ("", "m/44'/60'/0'/0/0"),
        (MNEMONIC, "nonsense"),
        (MNEMONIC, "m/x"),
        (MNEMONIC, "m/99999999999"),
    ],
)
def test_a_bad_mnemonic_or_path_is_refused_without_quoting_the_words(keyd, ask, secret_file, words, path):
    result = ask("wallet", "import", "main", "--mnemonic-file", secret_file(words), "--derivation-path", path)
    assert (result.code, keyd.asked) == (1, [])
    assert "does not hold a valid mnemonic" in result.err
    assert "test test" not in result.err


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--key-file", "a", "--keystore", "b"],
        ["--key-file", "a", "--password-file", "b"],
        ["--key-file", "a", "--derivation-path", "m"],
    ],
)
def test_sources_that_contradict_each_other_are_a_usage_error(keyd, ask, options):
    result = ask("wallet", "import", "main", *options)
    assert (result.code, keyd.asked) == (2, [])
    assert "keyctl: hint: `keyctl wallet import --help` shows what it takes\n" in result.err


def test_list_shows_which_wallet_pays(keyd, ask):
    other = api.Wallet(label="research", address=ADDRESS, created_at=1795305600, default=False)
    keyd.answers["wallet_list"] = api.WalletList(wallets=[WALLET, other])
    result = ask("wallet", "list")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "LABEL     ADDRESS                                     CREATED\n"
        f"main      {ADDRESS}  2026-11-21  default\n"
        f"research  {ADDRESS}  2026-11-22\n"
    )


def test_list_says_how_to_make_the_first_one(keyd, ask):
    keyd.answers["wallet_list"] = api.WalletList(wallets=[])
    assert ask("wallet", "list").out == "no wallets yet: `keyctl wallet create LABEL` makes one\n"


def test_list_json_is_keyds_answer(keyd, ask):
    keyd.answers["wallet_list"] = api.WalletList(wallets=[WALLET])
    assert api.WalletList.model_validate_json(ask("wallet", "list", "--json").out).wallets == [WALLET]
