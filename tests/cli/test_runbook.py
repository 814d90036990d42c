"""docs/runbook.md is played against a real keyd: every command of keyctl in it, and what it prints."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyd.reasons import Reason
from tests.cli.test_real_policy import KEY, RealKeyd

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"
PLACES = {
    "/var/lib/osmoda-keyd": "state",
    "/var/tmp": "tmp",
    "/backup": "backup",
    "/root": "root",
}
"""What the page names, and what stands for it in the scratch folder."""
NOT_PLAYED = (
    *("sudo osmoda-keyctl doctor", "df ", "sudo make ", "systemctl status", "journalctl "),
    *("sudo systemctl reset-failed", "sudo install -d "),
)
"""What a machine is needed for; the boot test plays doctor, upgrade and installation."""


@dataclass(frozen=True)
class Step:
    command: str
    printed: str
    """As the page shows it."""


def sections() -> dict[str, list[Step]]:
    """The commands below each heading of the page."""
    found: dict[str, list[Step]] = {}
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        lines = [line[4:] for line in text.splitlines() if line.startswith("    ") or not line]
        blocks = "\n".join(lines).split("\n$ ")[1:] if lines else []
        found[title] = [Step(*_parted(block)) for block in blocks]
    return found


def _parted(block: str) -> tuple[str, str]:
    command, _, printed = block.partition("\n")
    return command.partition("  #")[0].strip(), printed.strip()


class Scratch(RealKeyd):
    """A keyd whose folders stand for those of an installation."""

    def __init__(self, folder: Path, keyctl: Callable[..., object]) -> None:
        super().__init__(folder, keyctl)
        key = folder / "key"
        key.touch(0o600)
        key.write_text(KEY)
        assert self("wallet", "import", "default", "--key-file", key).code == 0
        self.waiting = "none"

    def play(self, step: Step) -> None:
        words = shlex.split(step.command)
        if words[0] == "sudo":
            words = words[1:]
        if words[0] == "systemd-run":
            words = words[words.index("osmoda-keyctl") :]
        if words[0] == "osmoda-keyctl":
            self._keyctl_said(step, words[1:])
        elif words[0] == "systemctl":
            self._systemctl(words[1])
        else:
            words = [
                word for word in words if word not in ("-o", "osmoda-keyd")
            ]  # everything is this user's here
            done = subprocess.run(
                [self._here(word) for word in words], capture_output=True, text=True, check=False, timeout=240
            )
            assert (done.returncode, done.stdout + done.stderr) == (0, step.printed)

    def _keyctl_said(self, step: Step, words: list[str]) -> None:
        ids = {"ID": self.waiting}
        words = [ids.get(word, self._here(word)) for word in words]
        if words[0] in ("backup", "restore"):  # no terminal here: a file instead of the question
            words += ["--passphrase-file", str(self.folder / "passphrase")]
        page = "\n".join(line for line in step.printed.splitlines() if not line.startswith("Passphrase "))
        result = self(*words)
        said = self._as_installed((result.out + result.err).strip())
        if found := re.search(r"^([0-9a-f]{12,40})  payment", said, re.MULTILINE):
            self.waiting = found[1]
        assert matches(page, said), f"$ {step.command}\n{said}\n--- the page says:\n{page}"

    def _systemctl(self, verb: str) -> None:
        if verb in ("stop", "restart"):
            self.stop()
        if verb in ("start", "restart"):
            self.process = self.start()

    def _here(self, word: str) -> str:
        for place, stands in PLACES.items():
            word = word.replace(place, f"{self.folder}/{stands}")
        return word

    def _as_installed(self, text: str) -> str:
        for place, stands in PLACES.items():
            text = text.replace(f"{self.folder}/{stands}", place)
        return text

    def stop(self) -> None:
        if self.process.poll() is None:
            super().stop()


def matches(page: str, said: str) -> bool:
    """`…` is anything within a line, and alone on a line any lines. Spaces that align columns do not count."""
    pattern = ""
    for line in page.splitlines():
        if line == "…":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            parts = (
                r" +".join(re.escape(word) for word in re.split(r" +", part)) for part in line.split("…")
            )
            pattern += r"[^\n]*".join(parts) + r"\n"
    return re.fullmatch(pattern, f"{said}\n") is not None


@pytest.fixture(autouse=True)
def _called_as_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/osmoda-keyctl"])


@pytest.fixture
def scratch(keyctl: Callable[..., object]) -> Iterator[Scratch]:
    with tempfile.TemporaryDirectory(prefix="osmoda-runbook-") as name:
        keyd = Scratch(Path(name), keyctl)
        for folder in ("root", "backup", "tmp"):
            (Path(name) / folder).mkdir()
        (Path(name) / "passphrase").touch(0o600)
        (Path(name) / "passphrase").write_text("correct horse battery staple")
        try:
            yield keyd
        finally:
            keyd.stop()


def play(scratch: Scratch, title: str, *, first: int = 0, last: int | None = None) -> None:
    steps = [step for step in sections()[title] if not step.command.startswith(NOT_PLAYED)]
    for step in steps[first:last]:
        scratch.play(step)


def test_stop_all_payments(scratch: Scratch) -> None:
    for _ in range(12):
        assert scratch.pay(60_000) == "paid"
    play(scratch, "Stop all payments", last=1)
    assert scratch.pay(60_000) == "frozen"
    play(scratch, "Stop all payments", first=1)
    assert scratch.pay(60_000) == "domain_denied"


def test_the_budget_is_used_up(scratch: Scratch) -> None:
    for _ in range(16):
        assert scratch.pay(60_000) == "paid"
    assert scratch.pay(60_000) == "budget_daily"
    play(scratch, "The budget is used up")
    assert scratch.pay(60_000) == "paid"


def test_a_payment_waits_for_approval(scratch: Scratch) -> None:
    assert scratch.pay(90_000) == "approval_required"
    play(scratch, "A payment waits for approval")


def test_the_key_encryption_key_has_to_change(scratch: Scratch) -> None:
    play(scratch, "The key-encryption key has to change")
    assert scratch.pay(60_000) == "paid"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_the_disk_is_full(keyctl: Callable[..., object]) -> None:
    with tempfile.TemporaryDirectory(prefix="osmoda-runbook-") as name, _small_disk(Path(name)):
        scratch = Scratch(Path(name), keyctl)
        ballast = Path(name) / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            assert {scratch.pay(1_000) for _ in range(3)} == {"ledger_unavailable"}
            play(scratch, "The disk is full", last=1)
            ballast.unlink()
            assert scratch.pay(1_000) == "paid"
            play(scratch, "The disk is full", first=1)
        finally:
            scratch.stop()


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2M,mode=0755", "tmpfs", folder], check=True, timeout=240
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True, timeout=240)


def test_a_damaged_ledger_is_put_aside_and_a_backup_restored(scratch: Scratch) -> None:
    assert scratch.pay(1_000) == "paid"
    play(scratch, "Back up")
    assert scratch.pay(2_000) == "paid"
    scratch.stop()
    db = sqlite3.connect(scratch.folder / "state" / "ledger.sqlite3")
    db.execute("UPDATE entries SET entry = replace(entry, 'GET', 'PUT') WHERE seq = 5")
    db.commit()
    db.close()
    scratch.process = scratch.start()
    play(scratch, "The ledger fails verification")
    play(scratch, "Restore from a backup", last=3)
    assert scratch.pay(1_000) == "frozen"
    play(scratch, "Restore from a backup", first=3)
    assert scratch.pay(3_000) == "paid"
    assert (scratch.folder / "root" / "osmoda-keyd.damaged" / "ledger.sqlite3").exists()


def test_after_an_upgrade_keyd_answers(scratch: Scratch) -> None:
    play(scratch, "Upgrade")


def test_every_command_of_the_page_is_played_or_listed() -> None:
    played = {
        *("Stop all payments", "The budget is used up", "A payment waits for approval"),
        *("The key-encryption key has to change", "The disk is full", "The ledger fails verification"),
        *("Back up", "Restore from a backup", "Upgrade"),
    }
    found = sections()
    rest = [step.command for title in found.keys() - played for step in found[title]]
    assert [
        command for command in rest if not command.startswith((*NOT_PLAYED, "sudo systemctl start"))
    ] == []
    assert sum(len(found[title]) for title in played) > 25


def test_the_comparison_sees_a_difference() -> None:
    assert matches("a … c\n…\nlast", "a b c\nx\ny\nlast")
    assert not matches("a … c", "a b d")
    assert not matches("one", "one\ntwo")
    assert not matches("one\ntwo", "one")


def test_every_reason_that_is_a_symptom_is_one_that_programs_get():
    symptoms = re.findall(r"^\*(.*?402 with.*?)\*$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    codes = [code for symptom in symptoms for code in re.findall(r"`(?:reason=)?([a-z]+_[a-z_]+)`", symptom)]
    assert len(codes) > 5
    assert set(codes) - set(Reason) == {"payment_held"}  # an alert
