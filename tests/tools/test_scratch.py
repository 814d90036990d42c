"""TMPDIR is used if sockets and other users find their way there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import scratch


def test_a_folder_that_is_open_to_all_suits_and_one_that_is_not_does_not(tmp_path: Path) -> None:
    assert scratch.suits(Path("/usr"))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not scratch.suits(closed)


def test_a_folder_that_leaves_no_room_for_a_socket_does_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scratch.suits(Path("/usr/lib"))
    monkeypatch.setattr(scratch, "LONGEST", len("/usr/lib") - 1)
    assert not scratch.suits(Path("/usr/lib"))


def test_tests_go_elsewhere_if_tmpdir_does_not_suit(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", "import tests.conftest, tempfile; print(tempfile.gettempdir())"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "/tmp\n"
