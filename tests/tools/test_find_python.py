"""tools/find-python picks the newest Python that really runs, wherever it stands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

FIND = Path(__file__).resolve().parents[2] / "tools/find-python"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH folder with what the script itself needs, and no Python."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for program in ("bash", "sed", "sort", "head", "tr", "cat", "env"):
        real = next(Path(p) / program for p in ("/usr/bin", "/bin") if (Path(p) / program).exists())
        (folder / program).symlink_to(real)
    return folder


def _python(file: Path, minor: int) -> Path:
    """A stand-in that answers the probe as Python 3.`minor` does: nothing below 3.12."""
    file.parent.mkdir(parents=True, exist_ok=True)
    answer = f"echo '{minor} {file}'" if minor >= 12 else ":"
    file.write_text(f"#!/bin/bash\n{answer}\n")
    file.chmod(0o755)
    return file


def _broken(file: Path) -> None:
    """As a pyenv shim for a version that is not selected: it is there, and it fails."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/bash\necho 'pyenv: command not found' >&2\nexit 127\n")
    file.chmod(0o755)


def _find(path: list[Path], **environment: str) -> subprocess.CompletedProcess[str]:
    variables: Mapping[str, str] = {"PATH": os.pathsep.join(map(str, path)), "HOME": "/nonexistent"}
    return subprocess.run(
        [FIND], env={**variables, **environment}, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_newest_on_path_is_taken(bare: Path) -> None:
    _python(bare / "python3.12", 12)
    newest = _python(bare / "python3.13", 13)

    assert _find([bare]).stdout.strip() == str(newest)


def test_a_python_that_is_too_old_does_not_count(bare: Path) -> None:
    _python(bare / "python3", 11)

    assert _find([bare]).returncode == 1


def test_a_shim_that_fails_is_passed_over(bare: Path) -> None:
    _broken(bare / "python3.13")
    works = _python(bare / "python3.12", 12)

    assert _find([bare]).stdout.strip() == str(works)


@pytest.mark.parametrize("how", ["PYENV_ROOT", "HOME", "pyenv on PATH", "shims on PATH"])
def test_pyenv_is_found_however_it_is_set_up(how: str, bare: Path, tmp_path: Path) -> None:
    root = tmp_path / "home/.pyenv"
    _broken(root / "shims/python3.13")
    _broken(root / "bin/pyenv")
    wanted = _python(root / "versions/3.13.1/bin/python", 13)
    _python(root / "versions/3.12.9/bin/python", 12)

    found = {
        "PYENV_ROOT": lambda: _find([bare], PYENV_ROOT=str(root)),
        "HOME": lambda: _find([bare], HOME=str(root.parent)),
        "pyenv on PATH": lambda: _find([bare, root / "bin"]),
        "shims on PATH": lambda: _find([root / "shims", bare]),
    }[how]()

    assert found.stdout.strip() == str(wanted)


def test_without_any_the_error_says_how_to_get_one(bare: Path) -> None:
    found = _find([bare])

    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("error: no Python >= 3.12 found")
    assert "hint:   pyenv install 3.13" in found.stderr
