"""Runs programs of the system: those that know what keyctl wants to know, and those that change it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

LIMIT_S: Final = 60.0  # update-ca-certificates with Java takes half a minute on a slow machine; longer hangs


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line that it wrote, for a message."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1][:300] if lines else f"exit code {self.code}"


type Runner = Callable[[Sequence[str]], Done | None]
"""Runs a command; None if there is no such program, or it does not end."""


def run(command: Sequence[str]) -> Done | None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Done(done.returncode, done.stdout, done.stderr)


def run_quietly(command: Sequence[str]) -> Done | None:
    """Like `run`; what the command writes to stdout is a secret, and goes nowhere."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Done(done.returncode, "", done.stderr)
