"""`make demo`: it succeeds only if everything it shows was true, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from demo.programs import BIN

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """TMPDIR of the demo, empty when it is over; what knew of it ends then, or this waits for ever."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []
    while _processes_that_know(folder):  # killed, and not yet gone
        time.sleep(0.02)


def _processes_that_know(folder: Path) -> list[int]:
    """Those with `folder` in their environment: all that the demo started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or not ours
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def _start(scratch: Path, path: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(scratch)} | ({"PATH": str(path)} if path else {})
    return subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_demo_shows_a_payment_a_refusal_and_a_ledger_that_verifies(scratch: Path) -> None:
    demo = _start(scratch)
    out, errors = demo.communicate(timeout=240)

    assert (demo.returncode, errors) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines.count("HTTP/1.1 402 Payment Required") == 2
    assert lines.count("HTTP/1.1 200 OK") == 1
    assert "X-402-Egress: rejected; reason=cap_per_payment" in lines
    assert any("settled  yes        0.001 USDC  $0.001" in line for line in lines)
    assert "by the seller's books: 0.001 USDC" in lines
    silent = [line for line, answer in pairwise(lines) if line.startswith("$ ") and answer.startswith("$ ")]
    assert all(command.endswith((" &", " init")) for command in silent)
    assert any("spent $0.001 of $1.00 today" in line for line in lines)
    assert any(re.fullmatch("ledger verified: [0-9]+ entries", line) for line in lines)


def test_a_step_that_shows_something_else_fails_the_demo(scratch: Path, tmp_path: Path) -> None:
    """A curl for which everything is free: the demo must not call that success."""
    path = tmp_path / "bin"
    path.mkdir()
    curl = path / "curl"
    curl.write_text("#!/bin/sh\nprintf 'HTTP/1.1 200 OK\\r\\n\\r\\n[]'\n")
    curl.chmod(0o755)

    demo = _start(scratch, path)
    _, errors = demo.communicate(timeout=240)

    assert demo.returncode == 1
    assert errors.strip() == "demo: error: the answer should have had status 402"


def test_without_curl_the_demo_says_what_to_install(scratch: Path, tmp_path: Path) -> None:
    assert shutil.which("curl", path=str(BIN)) is None

    demo = _start(scratch, tmp_path)
    _, errors = demo.communicate(timeout=240)

    assert demo.returncode == 1
    assert errors.splitlines()[1] == "demo: hint: apt-get install curl, then run `make demo` again."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_running(number: signal.Signals, scratch: Path) -> None:
    demo = _start(scratch)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "osmoda-egress" in line:  # seller and keyd run, egress is about to
            break
    assert len(_processes_that_know(scratch)) >= 3

    demo.send_signal(number)
    _, errors = demo.communicate(timeout=240)

    assert demo.returncode == 130
    assert "interrupted" in errors
