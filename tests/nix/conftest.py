"""The module is evaluated by a real Nix, against stand-ins for the parts of nixpkgs that it uses."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.nix.nix import Nix


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    """A machine without Nix gets Debian's, if root asks; otherwise the tests fail, and say what is missing."""
    if shutil.which("nix-instantiate") is None:
        _install()
    return Nix(tmp_path_factory.mktemp("nix"))


def _install() -> None:
    command = "apt-get install -qq -y --no-install-recommends nix-bin"
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"nix-instantiate is missing; install Nix, on Debian with `{command}`", pytrace=False)
    noninteractive = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in ("apt-get update -qq", command):
        subprocess.run(step.split(), env=noninteractive, stdin=subprocess.DEVNULL, timeout=240, check=True)
