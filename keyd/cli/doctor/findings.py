"""What a check found, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import click

from keyd.cli.program import as_called
from keyd.cli.render import escaped


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Works, but somebody should know."""
    SKIPPED = "skipped"
    """Could not be looked at, for example without root."""
    FAULT = "fault"
    """Keeps payments from being made, or secrets from being safe."""


_COLOURS: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.SKIPPED: "cyan", Level.FAULT: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `remedy`: the command or the change that mends it."""

    check: str
    level: Level
    message: str
    remedy: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {
            "check": self.check,
            "level": self.level.value,
            "message": self.message,
            "remedy": self.remedy,
        }


def good(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def note(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.NOTE, message, remedy)


def skipped(check: str, message: str, remedy: str | None = None) -> Finding:
    return Finding(check, Level.SKIPPED, message, remedy)


def fault(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.FAULT, message, remedy)


def report(findings: Sequence[Finding]) -> str:
    """Findings for people, a line each, with the remedy below."""
    return "\n".join(line for finding in findings for line in _lines(finding))


def _lines(finding: Finding) -> list[str]:
    word = click.style(f"{finding.level.value:<7}", fg=_COLOURS[finding.level])
    lines = [f"{word}  {finding.check:<13}  {escaped(finding.message)}"]
    if finding.remedy:
        lines.append(f"{'':<24}→ {escaped(as_called(finding.remedy))}")
    return lines
