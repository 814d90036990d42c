"""Whatever lies where a ledger should be: every command ends in words and an exit code, and steers no terminal."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from keyd.cli.app import run as keyctl
from ledger import Ledger, Transaction
from ledger.__main__ import main as ledger_program
from ledger.export import FORMATS, INCOMPLETE

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\u200f\r\x00\x7f\nledger verified: 3 entries"
PAYMENTS = 150
"""Enough for the tables to be many pages."""


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def text(path: Path) -> None:
    path.write_text(f"Dear auditor,\n{HOSTILE}\n")


def other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE entries (seq, entry, hash); PRAGMA user_version = 1")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage_page(path: Path) -> None:
    """One page in the middle of everything; the first pages, with the names of the tables, are whole."""
    with path.open("r+b") as file:
        file.seek(4096 * (path.stat().st_size // 4096 // 2))
        file.write(b"\xa5\x1b" * 2048)


def garbage_everywhere(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xa5\x1b" * 2048 * (path.stat().st_size // 4096 - 20))


def rewritten(statement: str, *values: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA ignore_check_constraints = ON")
            assert db.execute(statement, values).rowcount > 0

    return damage


def entry(**data: Any) -> str:
    members = {"actor": "keyd", "data": data, "seq": 2, "ts": "2026-11-21T02:00:34.123456Z", "type": "x"}
    return json.dumps(members)


PUT_ENTRY = "UPDATE entries SET entry = ? WHERE seq = 2"
FILES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "folder": folder,
    "fifo": fifo,
    "text": text,
    "another database": other_database,
    "truncated": truncated,
    "garbage page": garbage_page,
    "garbage everywhere": garbage_everywhere,
    "not JSON": rewritten(PUT_ENTRY, HOSTILE),
    "JSON of another shape": rewritten(PUT_ENTRY, "[]"),
    "not UTF-8": rewritten("UPDATE entries SET entry = CAST(x'ff1b5b324a' AS TEXT) WHERE seq = 2"),
    "an entry of NULs": rewritten(PUT_ENTRY, "\x00" * 100),
    "a number for an entry": rewritten(PUT_ENTRY, 7),
    "deep JSON": rewritten(PUT_ENTRY, "[" * 100_000),
    "hostile text": rewritten(PUT_ENTRY, entry(method="GET", path=HOSTILE)),
    "a megabyte": rewritten(PUT_ENTRY, entry(method="GET", path="x" * 1_000_000)),
    "a lone surrogate": rewritten(PUT_ENTRY, entry(method="GET", path="\ud800\udc1b")),
    "a hash of another length": rewritten("UPDATE entries SET hash = ? WHERE seq = 2", HOSTILE.encode()),
    "hostile domain": rewritten("UPDATE payments SET domain = ?, caller = ?", HOSTILE, HOSTILE),
    "hostile payment": rewritten("UPDATE payments SET payment_id = ? WHERE signed_seq = 2", HOSTILE),
    "hostile state": rewritten("UPDATE payments SET state = ?", HOSTILE),
    "hostile amount": rewritten("UPDATE payments SET amount = ?", HOSTILE),
    "endless amount": rewritten("UPDATE payments SET amount = ?", "9" * 5000),
    "a time beyond every calendar": rewritten("UPDATE payments SET signed_at = ?", 2**61),
    "no story": rewritten("DELETE FROM payment_entries"),
    "no entries": rewritten("DELETE FROM entries"),
    "no head": rewritten("DELETE FROM meta"),
    "hostile head": rewritten("UPDATE meta SET head_hash = ?, latest_day = ?", HOSTILE.encode(), HOSTILE),
    "hostile fact": rewritten("UPDATE facts SET kind = ?, value = ?", HOSTILE, HOSTILE),
}


@pytest.fixture(scope="module")
def sound(signed_data: Any) -> bytes:
    """A ledger of many pages."""
    with tempfile.TemporaryDirectory(prefix="osmoda-hostile-") as folder:
        path = Path(folder) / "ledger.sqlite3"
        times = iter(range(1_795_226_434_000_000, 2**60, 1_000_000))

        def step(tx: Transaction) -> None:
            for number in range(PAYMENTS):
                asked = tx.append("x402.payment.attempt", "uid:991", {"method": "GET", "path": "/weather"})
                fact = {"facts": [{"kind": "pin", "key": f"host {number}", "value": "{}"}]}
                known = {"asset_decimals": 6, "asset_symbol": "USDC", "attempt": asked.seq}
                tx.append("x402.payment.signed", "uid:991", signed_data(number, **known, **fact))

        with closing(Ledger.open(path, clock=lambda: next(times))) as ledger:
            ledger.transact(step).result(20)
        return path.read_bytes()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Terminal(io.TextIOWrapper):
    """Standard output as strict as the real one, and a terminal if it is to be."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        self.flush()
        content = self.buffer.getvalue()  # type: ignore[attr-defined]
        return str(content, "utf-8")


def run(program: Callable[[list[str]], int], arguments: list[str], *, terminal: bool = True) -> Ended:
    out, err = Terminal(terminal=terminal), Terminal(terminal=False)
    with redirect_stdout(out), redirect_stderr(err):
        code = program(arguments)
    return Ended(code, out.text(), err.text())


COMMANDS: dict[str, Callable[[Path], tuple[Callable[[list[str]], int], list[str]]]] = {
    "ledger verify": lambda path: (ledger_program, ["verify", str(path)]),
    "ledger import": lambda path: (ledger_program, ["import", str(path), f"{path}.new"]),
    "keyctl verify": lambda path: (keyctl, ["ledger", "verify", "--file", str(path)]),
    "keyctl verify --against": lambda path: (
        keyctl,
        ["ledger", "verify", "--file", str(path), "--against", str(path)],
    ),
}
COMMANDS |= {
    f"ledger export {form}": lambda path, form=form: (ledger_program, ["export", str(path), "--format", form])
    for form in FORMATS
}
COMMANDS["keyctl export"] = lambda path: (
    keyctl,
    ["ledger", "export", "--file", str(path), "--format", "csv"],
)


def assert_steers_nothing(printed: str) -> None:
    steering = {char for char in printed if char != "\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs"}}
    assert steering == set()


def assert_in_words(ended: Ended) -> None:
    assert ended.code in {0, 1, 2}
    for printed in (ended.out, ended.err):
        assert_steers_nothing(printed)
        assert "Traceback" not in printed
        assert "this is a bug" not in printed
    assert ended.code == 0 or "not verified" in ended.out or ": hint: " in ended.err


THROUGH_PIPES = {"ledger import", "keyctl verify --against"}
"""An export and heads may come through one, and are waited for."""


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (kind, command)
        for kind in FILES
        for command in COMMANDS
        if kind != "fifo" or command not in THROUGH_PIPES
    ],
)
def test_whatever_the_file_is_the_command_ends_in_words(
    sound: bytes, tmp_path: Path, kind: str, command: str
) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(sound)
    FILES[kind](path)
    assert_in_words(run(*COMMANDS[command](path)))


@contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else takes root")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_ledger_of_somebody_else_is_said_to_be_that(sound: bytes, command: str) -> None:
    with tempfile.TemporaryDirectory(prefix="osmoda-hostile-") as folder:
        os.chmod(folder, 0o711)
        path = Path(folder) / "ledger.sqlite3"
        path.write_bytes(sound)
        path.chmod(0o600)
        with as_nobody():
            ended = run(*COMMANDS[command](path))
    assert_in_words(ended)
    assert ended.code != 0
    assert "permission" in ended.err.lower() or "unable to open" in ended.err


DAMAGED_LATE = "UPDATE entries SET entry = '[]' WHERE seq = 250"


def export(path: Path, form: str, *, terminal: bool = False) -> Ended:
    return run(ledger_program, ["export", str(path), "--format", form], terminal=terminal)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "jsonl"])
def test_an_export_that_breaks_off_ends_in_a_line_that_says_so(
    sound: bytes, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(sound)
    assert export(path, form).code == 0
    assert INCOMPLETE not in export(path, form).out
    rewritten(DAMAGED_LATE)(path)
    ended = export(path, form)
    assert ended.code == 2
    assert "it holds something that keyd does not write" in ended.err
    assert "python -m ledger verify" in ended.err
    assert ended.out.endswith(INCOMPLETE)
    assert len(ended.out.splitlines()) > 100  # what could be read is there


def test_json_lines_that_break_off_are_neither_verified_nor_imported(sound: bytes, tmp_path: Path) -> None:
    path, part = tmp_path / "ledger.sqlite3", tmp_path / "part.jsonl"
    path.write_bytes(sound)
    rewritten("UPDATE entries SET entry = CAST(x'ff' AS TEXT) WHERE seq = 250")(path)
    ended = export(path, "jsonl")
    assert ended.code == 2
    assert ended.out.endswith(INCOMPLETE)
    part.write_text(ended.out)
    for arguments in (["verify", str(part)], ["import", str(part), str(tmp_path / "new.sqlite3")]):
        refused = run(ledger_program, arguments)
        assert refused.code == 2
        assert "line 250 is not an entry" in refused.err
    assert not (tmp_path / "new.sqlite3").exists()


def test_accounts_that_break_off_are_an_error_to_beancount(sound: bytes, tmp_path: Path) -> None:
    loader = pytest.importorskip("beancount.loader")
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(sound)
    assert loader.load_string(export(path, "beancount").out)[1] == []
    rewritten(DAMAGED_LATE)(path)
    assert loader.load_string(export(path, "beancount").out)[1] != []


@pytest.mark.real
def test_accounts_that_break_off_are_an_error_to_ledger_cli(sound: bytes, tmp_path: Path) -> None:
    if (program := shutil.which("ledger")) is None:
        pytest.skip("needs ledger-cli (`apt-get install ledger`)")
    path, journal = tmp_path / "ledger.sqlite3", tmp_path / "payments.ledger"
    path.write_bytes(sound)
    command = [program, "--init-file", "/dev/null", "-f", str(journal), "balance"]
    journal.write_text(export(path, "ledger").out)
    assert subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    rewritten(DAMAGED_LATE)(path)
    journal.write_text(export(path, "ledger").out)
    assert subprocess.run(command, capture_output=True, timeout=20).returncode != 0


@pytest.mark.parametrize("program", [ledger_program, keyctl])
def test_into_a_file_every_byte_is_as_it_was_recorded(tmp_path: Path, program: Any) -> None:
    """What a terminal is spared, an export needs: the hash covers it."""
    path = tmp_path / "ledger.sqlite3"
    words = "\x7f\x9b31m\u202eé\u2028"  # canonical JSON writes them as they are
    with closing(Ledger.open(path, clock=lambda: 1_795_226_434_000_000)) as ledger:
        ledger.transact(lambda tx: tx.append("x402.payment.attempt", "keyd", {"path": words})).result(20)
    arguments = ["export", str(path), "--format", "jsonl"]
    if program is keyctl:
        arguments = ["ledger", "export", "--file", str(path), "--format", "jsonl"]
    piped = run(program, arguments, terminal=False)
    assert words in piped.out
    (tmp_path / "export.jsonl").write_text(piped.out, "utf-8")
    assert run(ledger_program, ["verify", str(tmp_path / "export.jsonl")]).code == 0
    shown = run(program, arguments, terminal=True)
    assert_steers_nothing(shown.out)
    assert r"\x7f\x9b31m\u202eé\u2028" in shown.out


def test_an_error_names_a_hostile_path_on_one_line(tmp_path: Path) -> None:
    for name in (HOSTILE.replace("\x00", ""), "\udcff"):
        for command in COMMANDS.values():
            ended = run(*command(tmp_path / name))
            assert_in_words(ended)
            assert all(line.startswith(("ledger: ", "keyctl: ")) for line in ended.err.splitlines())
