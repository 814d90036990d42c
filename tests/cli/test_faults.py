"""Whatever goes wrong: one sentence, one hint, the right exit code, never a traceback (`keyctl` asserts that)."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keyd import api
from keyd.cli import app, x402_commands
from keyd.cli.context import Invocation
from keyd.cli.errors import CliError
from keyd.cli.render import escaped
from keyd.client import KeydClient

KEYCTL = [sys.executable, "-c", "from keyd.cli import main; main()"]


def test_no_socket_means_keyd_is_not_running(keyctl, tmp_path):
    path = tmp_path / "none.sock"
    result = keyctl("--socket", path, "health")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"keyctl: error: cannot open {path}: no such file or directory\n"
        "keyctl: hint: start keyd (`systemctl restart osmoda-keyd.socket`), "
        "or name the `socket` of its keyd.toml with --socket\n"
    )


def test_a_socket_nobody_listens_on_was_left_by_a_dead_keyd(keyctl, tmp_path):
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    result = keyctl("--socket", path, "health")
    assert result.code == 1
    assert f"keyctl: error: cannot open {path}: connection refused\n" in result.err
    assert "keyctl: hint: nobody listens there: `systemctl restart osmoda-keyd.socket`" in result.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not")
def test_a_socket_of_others_names_the_group(keyd, ask):
    keyd.socket.chmod(0o600)
    os.seteuid(65534)
    try:
        result = ask("health")
    finally:
        os.seteuid(0)
    assert result.code == 1
    assert f"keyctl: error: cannot open {keyd.socket}: permission denied\n" in result.err
    assert (
        'keyctl: hint: run as root, or as a member of both groups "osmoda" and "osmoda-admin"' in result.err
    )


def test_an_answer_of_another_protocol_names_the_versions(keyd, ask):
    keyd.answers["policy"] = api.Health(
        status="ok", api_version=1, version="9", ledger_entries=0, problems=[]
    )
    result = ask("x402", "policy")
    assert result.code == 1
    assert "does not speak this keyctl's protocol: GET /x402/policy: unexpected answer (200)" in result.err
    assert "keyctl: hint: keyctl and keyd must be of the same version" in result.err


def test_keyd_that_does_not_answer_in_time_is_said_so(tmp_path):
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen()
        with pytest.raises(CliError, match=f"^keyd on {path} did not answer in time$"):
            Invocation(path, None).ask(KeydClient.health, timeout_s=0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["x402", "nonsense"], "No such command"),
        (["health", "--nonsense"], "No such option"),
        (["wallet", "create"], "Missing argument"),
        (["ledger", "verify", "extra"], "unexpected extra argument"),
        (["--socket"], "requires an argument"),
    ],
)
def test_usage_errors_are_in_our_form_with_exit_code_2(keyctl, arguments, said):
    result = keyctl(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("keyctl: error: ")
    assert said.lower() in result.err.lower()
    assert "keyctl: hint: `keyctl" in result.err


@pytest.mark.parametrize("arguments", [[], ["wallet"], ["x402"], ["ledger"]])
def test_a_command_that_says_nothing_shows_help_and_is_no_success(keyctl, arguments):
    result = keyctl(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: keyctl")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["wallet", "import", "--help"]])
def test_help_and_version_succeed(keyctl, arguments):
    result = keyctl(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "keyctl" in result.out


def test_a_bug_names_its_type_but_not_its_text(keyctl, monkeypatch):
    def fail(*_arguments: object) -> None:
        raise LookupError("ac0974bec39a17e3")

    monkeypatch.setattr(x402_commands, "explain", fail)
    result = keyctl("x402", "explain", "internal")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "keyctl: error: this is a bug in keyctl: unexpected LookupError\n"
        "keyctl: hint: set OSMODA_DEBUG=1 to see where, and report it\n"
    )


def test_a_traceback_is_shown_to_whoever_asks_for_it(capsys, monkeypatch):
    def fail(*_arguments: object) -> None:
        raise LookupError

    monkeypatch.setattr(x402_commands, "explain", fail)
    monkeypatch.setenv("OSMODA_DEBUG", "1")
    assert app.run(["x402", "explain", "internal"]) == 1
    assert "Traceback (most recent call last):" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(keyctl, monkeypatch):
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(x402_commands, "explain", interrupt)
    result = keyctl("x402", "explain", "internal")
    assert (result.code, result.out) == (130, "")


def test_a_reader_that_leaves_early_is_not_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([*KEYCTL, "x402", "explain"], stdout=writer, stderr=subprocess.PIPE) as child:
        os.close(writer)
        assert child.stderr is not None
        assert child.stderr.read() == b""
        assert child.wait(240) == 1


def test_a_full_disk_behind_stdout_is_said_and_is_no_success():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*KEYCTL, "x402", "explain"], stdout=full, stderr=subprocess.PIPE, timeout=240)
    assert done.returncode == 1
    assert done.stderr.startswith(b"keyctl: error: ")
    assert b"no space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_colours_are_for_terminals_only(tmp_path):
    command = [*KEYCTL, "--socket", str(tmp_path / "none"), "health"]
    assert b"\x1b[" not in subprocess.run(command, capture_output=True, timeout=240).stderr
    assert b"\x1b[31merror" in _stderr_on_terminal(command, {})
    assert b"\x1b[" not in _stderr_on_terminal(command, {"NO_COLOR": "1"})


def _stderr_on_terminal(command: list[str], variables: dict[str, str]) -> bytes:
    terminal, child_side = pty.openpty()
    subprocess.run(command, stderr=child_side, timeout=240, env=os.environ | variables)
    os.write(child_side, b"<end>")  # whatever was written before it has come when it comes
    seen = b""
    while not seen.endswith(b"<end>"):
        seen += os.read(terminal, 4096)
    os.close(child_side)
    os.close(terminal)
    return seen


# -- which keyd is asked ---------------------------------------------------------------------------------

NO_KEYD_TOML = "/nonexistent/keyd.toml"


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "keyd.toml"
    file.write_text(f'socket = "{tmp_path}/from-config.sock"\n')
    return file


def test_the_flag_goes_before_the_variable_and_the_variable_before_the_file(
    keyctl, config, tmp_path, monkeypatch
):
    monkeypatch.setenv("OSMODA_KEYD_CONFIG", str(config))
    assert f"cannot open {tmp_path}/from-config.sock" in keyctl("health").err
    monkeypatch.setenv("OSMODA_KEYD_SOCKET", f"{tmp_path}/from-env.sock")
    assert f"cannot open {tmp_path}/from-env.sock" in keyctl("health").err
    assert f"cannot open {tmp_path}/flag.sock" in keyctl("--socket", f"{tmp_path}/flag.sock", "health").err


def test_without_any_configuration_the_default_socket_is_asked(keyctl, monkeypatch):
    monkeypatch.setattr("keyd.cli.context.DEFAULT_CONFIG", Path(NO_KEYD_TOML))
    monkeypatch.setattr("keyd.api.DEFAULT_SOCKET", "/nonexistent/default.sock")
    assert "cannot open /nonexistent/default.sock" in keyctl("health").err


def test_a_configuration_that_was_named_must_exist(keyctl):
    result = keyctl("--config", NO_KEYD_TOML, "health")
    assert result.code == 1
    assert f"cannot read {NO_KEYD_TOML}: No such file or directory" in result.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcödé 漢字", "plain ünïcödé 漢字"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202e\u2066\u200b", "\\u202e\\u2066\\u200b"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_escaping_leaves_words_and_takes_controls(text, shown):
    assert escaped(text) == shown
