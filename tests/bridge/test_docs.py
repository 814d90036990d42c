"""docs/TOOLS.md tells what the bridge does."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bridge.__main__ import main
from bridge.server import INSTRUCTIONS, TOOLS
from bridge.tools import Tools
from bridge.untrusted import MAX_TEXT
from keyd.quotes import QUOTES_PER_MINUTE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/TOOLS.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_names_every_tool_its_arguments_and_what_it_changes() -> None:
    rows = [cells(line) for line in PAGE.splitlines() if line.startswith("| `x402_")]
    assert [row[0].strip("`") for row in rows] == [tool.name for tool in TOOLS]
    for row, tool in zip(rows, TOOLS, strict=True):
        method = getattr(Tools, tool.name.removeprefix("x402_"))
        arguments = [name for name in inspect.signature(method).parameters if name != "self"]
        assert re.findall(r"`(\w+)`", row[2]) == arguments
        assert row[3] == ("no" if tool.reads else "yes")
        assert row[4] == ("yes" if tool.world else "no")


def test_the_table_of_options_is_that_of_the_program() -> None:
    rows = [cells(line) for line in PAGE.splitlines() if line.startswith("| `--")]
    written = {row[0].strip("`").split()[0]: row[1].strip("`") for row in rows}
    options = {p.opts[0]: str(p.envvar or "") for p in main.params if p.name not in ("version", "help")}  # type: ignore[attr-defined]
    assert written == options


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_of_a_configuration_starts_what_is_installed(example: str) -> None:
    document: dict[str, Any] = json.loads(example)
    [server] = (document.get("mcpServers") or document["servers"]).values()
    check(server)


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_in_toml_does_too(example: str) -> None:
    [server] = tomllib.loads(example)["mcp_servers"].values()
    check(server)


def check(server: dict[str, Any]) -> None:
    if "url" in server:
        assert server["url"] == "http://127.0.0.1:18402/mcp"
        assert "--http 127.0.0.1:18402" in PAGE
        return
    assert server["command"] in PROJECT["scripts"]
    main.make_context("osmoda-bridge", list(server["args"]))
    known = {str(parameter.envvar) for parameter in main.params}
    assert set(server.get("env", {})) <= known


def test_examples_for_json_and_toml_are_found_on_the_page() -> None:
    assert PAGE.count("```json") == 3
    assert PAGE.count("```toml") == 1


def test_the_limits_that_are_told_are_those_of_the_code() -> None:
    assert f"at most {MAX_TEXT} characters" in PAGE
    assert f"keyd answers {QUOTES_PER_MINUTE} quotes" in PAGE


def test_no_description_could_be_read_as_leave_to_spend() -> None:
    for text in (INSTRUCTIONS, *(tool.description for tool in TOOLS)):
        assert len(text) <= 400
        for word in (
            "you may",
            "you can",
            "should",
            "feel free",
            "budget for",
            "allowed to",
            "use this to pay",
        ):
            assert word not in text.lower(), text
