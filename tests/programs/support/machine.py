"""A user's machine with egress on it: starts programs as a person would, and sees their output as it comes."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.programs import BIN, Program
from tests.real.support.counterparts import Authority
from tests.real.support.payer import Payer

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ROOT / "tests/programs/clients"
CACHE = ROOT / ".cache/programs"
PAY_TO = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"


@dataclass(frozen=True)
class Output:
    code: int
    lines: list[str]
    """Of stdout."""
    stderr: str

    @property
    def text(self) -> str:
        return "".join(self.lines)


class Machine:
    """`home` is the user's; `work` an empty folder of the running test."""

    def __init__(self, home: Path, payer: Payer, upstream_ca: Path) -> None:
        self.home = home
        self.work = home
        self.payer = payer
        self._upstream_ca = upstream_ca
        home.mkdir()

    def run(self, command: Sequence[str | Path], *, no_proxy: str = "", **variables: str) -> Output:
        """`keyctl x402 run -- COMMAND`, in a shell's environment without any proxy or certificate of this machine."""
        return self._start(self.words(command, no_proxy=no_proxy), variables)

    def run_watching(self, command: Sequence[str | Path], shop: str) -> Output:
        """The same; `shop` (a URL) is told of each event of its stream as soon as the program has put it out."""
        trusting = ssl.create_default_context(cafile=self._upstream_ca)

        def tell(line: str) -> None:
            if line.startswith("data: "):
                urllib.request.urlopen(f"{shop}/seen", data=b"", context=trusting, timeout=60).close()

        return self._start(self.words(command), {}, tell)

    def run_in_session(self, command: Sequence[str | Path], label: str, budget: str) -> Output:
        """The same with --label and --budget."""
        words = self.words(command, "--label", label, "--budget", budget)
        return self._start(words, {"OSMODA_KEYD_SOCKET": str(self.payer.keyd.socket)})

    def words(self, command: Sequence[str | Path], *options: str, no_proxy: str = "") -> list[str]:
        """The command line of `keyctl x402 run`."""
        egress = self.payer.egress
        known = ["--proxy", egress.url, "--ca", str(egress.ca_certificate), "--no-proxy", no_proxy]
        return [str(BIN / "keyctl"), "x402", "run", *known, *options, "--", *map(str, command)]

    def run_bare(self, command: Sequence[str | Path]) -> Output:
        """The same program without keyctl: the negative twin."""
        return self._start([str(word) for word in command], {})

    def paid(self) -> int:
        """Number of payments so far."""
        return len(self.payer.signed())

    def _start(
        self, words: list[str], variables: dict[str, str], on_line: Callable[[str], None] = lambda _line: None
    ) -> Output:
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "NPM_FOLDER": str(CACHE / "npm"),
            "SSL_CERT_FILE": str(self._upstream_ca),  # an authority that the user trusted before
            **variables,
        }
        process = subprocess.Popen(
            words,
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                on_line(line)
            stderr = process.stderr.read()
            return Output(process.wait(60), lines, stderr)
        finally:
            process.kill()
            process.wait()


def shop_program(log: Path, goods: Path, authority: Authority | None = None) -> Program:
    command: list[str | Path] = [sys.executable, "-m", "tests.programs.support.shop", "--pay-to", PAY_TO]
    command += ["--goods", goods]
    if authority:
        command += ["--tls-certificate", authority.certificate, "--tls-key", authority.key]
    return Program("shop", command, log, {"PYTHONPATH": str(ROOT)})


def installed(name: str) -> Path:
    """`npm` or `venv` below the cache; made by `make counterparts`."""
    if not (CACHE / f"{name}.stamp").exists():
        raise FileNotFoundError("the programs to try are not installed: run `make counterparts`")
    return CACHE / name
