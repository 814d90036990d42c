"""Runs Nix on a store in a scratch folder: no daemon, no network, nothing left in /nix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(sys.prefix)
"""A folder with bin/keyctl and the daemons: where these tests run."""
_SETTINGS = (
    "build-users-group =",
    "experimental-features = nix-command flakes",
    "sandbox = false",
    "substituters =",
)
_EVALUATE = Path(__file__).with_name("evaluate.nix")


class NixError(Exception):
    """Nix refused; the text is what it said."""


@dataclass(frozen=True)
class Nix:
    home: Path

    def value(self, expression: str) -> Any:
        """The value of `expression`, strictly evaluated."""
        return self._json("--expr", expression)

    def module(self, attribute: str, settings: str) -> Any:
        """`attribute` of evaluate.nix, for the NixOS configuration `settings`, an attribute set in Nix."""
        return self._json(str(_EVALUATE), "-A", attribute, *self._arguments(settings))

    def build(self, file: str, settings: str) -> Path:
        """The built /etc/osmoda/`file`."""
        command = ["nix-build", "--no-out-link", _EVALUATE, "-A", f'files."{file}"']
        return Path(self._run(*command, *self._arguments(settings)).strip())

    def flake(self, flake: Path, nixpkgs: Path) -> Any:
        """The outputs of `flake`, as `nix flake show` lists them, after `nix flake check`, with another `nixpkgs`."""
        inputs = ("--override-input", "nixpkgs", f"path:{nixpkgs}", "--no-write-lock-file", f"path:{flake}")
        self._run("nix", "flake", "check", "--no-build", *inputs)
        return json.loads(self._run("nix", "flake", "show", "--json", *inputs))

    def parse(self, file: Path) -> None:
        self._run("nix-instantiate", "--parse", file)

    def _arguments(self, settings: str) -> list[str]:
        return ["--arg", "settings", settings, "--argstr", "package", str(PACKAGE)]

    def _json(self, *arguments: str) -> Any:
        return json.loads(self._run("nix-instantiate", "--eval", "--strict", "--json", *arguments))

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "NIX_STORE_DIR": str(self.home / "store"),
                "NIX_STATE_DIR": str(self.home / "var"),
                "NIX_LOG_DIR": str(self.home / "log"),
                "NIX_CONF_DIR": str(self.home / "etc"),
                "NIX_CONFIG": "\n".join(_SETTINGS),
            },
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=240,
            check=False,
        )
        if done.returncode != 0:  # after an error, part of a value may stand on stdout
            raise NixError(done.stderr)
        return done.stdout
