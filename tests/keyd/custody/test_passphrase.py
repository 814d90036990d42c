"""A key-encryption key under a passphrase: made, asked for at start, and where keyd's memory may go."""

from __future__ import annotations

import json
import os
import pty
import resource
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from keyd import process
from keyd.custody import kek, passphrase, scrypt
from keyd.custody.kek import KekError, Kind

PASSPHRASE = "correct horse bättery"


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scrypt, "N", 2)
    assert kek.create(tmp_path / "kek", secrets.token_bytes, lambda: PASSPHRASE)
    return tmp_path / "kek"


def test_a_sealed_key_opens_with_its_passphrase_alone(sealed: Path) -> None:
    source = kek.load(sealed, {}, lambda: PASSPHRASE)
    assert (source.kind, len(source.kek.reveal())) == (Kind.PASSPHRASE, 32)
    assert source.kek.reveal().hex() not in sealed.read_text()
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    with pytest.raises(KekError, match="does not open"):
        kek.load(sealed, {}, lambda: PASSPHRASE + " ")
    with pytest.raises(KekError, match="sealed under a passphrase"):
        kek.load(sealed, {})


def test_an_existing_key_is_never_replaced_and_nobody_is_asked(sealed: Path) -> None:
    before = sealed.read_bytes()

    def asked() -> str:
        raise AssertionError("asked for a passphrase that is of no use")

    assert kek.create(sealed, secrets.token_bytes, asked) is False
    assert sealed.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"kdf": {"name": "scrypt", "n": 2**30, "r": 8, "p": 1, "salt": "00"}},
        {"kdf": {"name": "md5"}},
        {"kdf": 7},
        {"nonce": "xx"},
        {"ciphertext": None},
    ],
)
def test_a_damaged_key_file_is_an_error_in_words_and_costs_no_memory(
    sealed: Path, change: dict[str, object]
) -> None:
    sealed.write_text(json.dumps(json.loads(sealed.read_text()) | change))
    with pytest.raises(KekError, match="is damaged"):
        kek.load(sealed, {}, lambda: PASSPHRASE)


def test_the_id_of_a_key_says_nothing_about_it_and_tells_keys_apart() -> None:
    one, other = kek.Kek(b"\x01" * 32), kek.Kek(b"\x02" * 32)
    assert one.id != other.id
    assert len(one.id) == 16
    assert one.id not in one.reveal().hex()
    assert one.reveal().hex() not in repr(one)


# -- at start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_it_is_read_from_a_file_descriptor(end: str) -> None:
    receiving, sending = os.pipe()
    os.write(sending, (PASSPHRASE + end).encode())
    os.close(sending)
    assert passphrase.ask(receiving, {}) == PASSPHRASE


def test_it_is_read_from_a_systemd_credential(tmp_path: Path) -> None:
    (tmp_path / "kek-passphrase").write_text(PASSPHRASE + "\n")
    assert passphrase.ask(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == PASSPHRASE


def test_without_anybody_to_ask_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        with pytest.raises(KekError, match="nobody can be asked") as refused:
            passphrase.ask(None, {})
    assert "--passphrase-fd" in refused.value.hint
    with pytest.raises(KekError, match="file descriptor 999"):
        passphrase.ask(999, {})


def test_on_a_terminal_it_is_asked_for_and_not_shown() -> None:
    program = "from keyd.custody import passphrase; print(len(passphrase.ask(None, {})))"
    terminal, child_side = pty.openpty()
    shell = ["setsid", "--ctty", "--wait", sys.executable, "-c", program]
    with subprocess.Popen(shell, stdin=child_side, stdout=child_side, stderr=child_side) as child:
        os.close(child_side)
        seen = b""
        while b"Passphrase of" not in seen:
            seen += os.read(terminal, 4096)
        os.write(terminal, PASSPHRASE.encode() + b"\n")
        while str(len(PASSPHRASE)).encode() not in seen:
            seen += os.read(terminal, 4096)
        assert child.wait(240) == 0
    os.close(terminal)
    assert PASSPHRASE.encode() not in seen


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "capabilities", "locks"),
    [
        (8 << 20, 0, False),
        (resource.RLIM_INFINITY, 0, True),
        (8 << 20, 1 << 14, True),
        (8 << 20, 1 << 13, False),
    ],
)
def test_memory_is_locked_only_where_no_limit_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, limit: int, capabilities: int, locks: bool
) -> None:
    """Below a limit an allocation would fail some day, in the middle of a payment. CAP_IPC_LOCK has none."""
    monkeypatch.setattr(process.resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(process.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(mlockall=lambda _: 0))
    monkeypatch.setattr(process, "_is_capable", lambda number: bool(capabilities >> number & 1))
    assert process.lock_memory() is locks


def test_the_system_is_asked_to_lock_what_is_there_and_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Libc:
        def mlockall(self, flags: int) -> int:
            asked.append(flags)
            return 0

    monkeypatch.setattr(process.resource, "getrlimit", lambda _: (0, resource.RLIM_INFINITY))
    monkeypatch.setattr(process.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda *_, **__: Libc())
    assert process.lock_memory() is True
    assert asked == [1 | 2 | 4]  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT
