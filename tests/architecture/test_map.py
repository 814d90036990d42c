"""docs/architecture.md is a map of this repository: what it names is there, and what must be found is on it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
NAMED = sorted(set(re.findall(r"`((?:[a-z]+/)+(?:[\w.-]+)?)`", PAGE)))


@pytest.mark.parametrize("path", NAMED)
def test_every_place_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_every_room_and_every_room_within_one_is_on_the_map() -> None:
    packages = [init.parent for init in ROOT.glob("*/__init__.py")] + [
        init.parent for room in ("keyd", "egress") for init in (ROOT / room).glob("*/__init__.py")
    ]
    folders = {f"{package.relative_to(ROOT)}/" for package in packages} - {"tests/"}
    assert folders >= {"egress/", "keyd/core/"}
    assert folders - set(NAMED) == set()


def test_every_decision_is_linked_from_the_map() -> None:
    decisions = {f"adr/{page.name}" for page in (ROOT / "docs/adr").glob("*.md")}
    assert decisions - set(re.findall(r"\]\((adr/[^)#]+)\)", PAGE)) == set()


def arrows(page: str) -> dict[str, set[str]]:
    """Importing room → modules of keyd, as the page draws them."""
    drawn = re.findall(r"^    ([a-z.]+) ─+► (keyd\.[^\n]+)$", page, re.MULTILINE)
    return {room: set(modules.split(", ")) for room, modules in drawn}


def test_the_arrows_are_those_that_make_check_enforces() -> None:
    enforced: dict[str, set[str]] = {}
    for rule in RULES:
        for exception in rule.get("ignore_imports", []):
            source, _, module = exception.partition(" -> ")
            if source.endswith(".**"):
                enforced.setdefault(source.removesuffix(".**"), set()).add(module)
    assert arrows(PAGE) == enforced
    assert arrows(PAGE.replace("keyd.cli ────► ", "keyd.cli ────► keyd.service, ")) != enforced
