"""docs/programs.md names the programs that the tests try, and the variables that are set."""

from __future__ import annotations

import re
from pathlib import Path

from keyd.cli.environment import BUNDLE_VARIABLES, Proxy, TrustFiles, program_environment
from tests.programs import test_tools
from tests.programs.support.programs import FETCHING

PAGE = (Path(__file__).parents[2] / "docs/programs.md").read_text()
ROWS: dict[str, tuple[str, str]] = {
    name: (pays, streams)
    for name, pays, streams in re.findall(
        r"^\| ([A-Z]?[\w ]+?) \| ([^|]+?) \| ([^|]+?) \|", PAGE, re.MULTILINE
    )
}


def test_every_program_that_fetches_is_a_row_that_pays_and_streams() -> None:
    assert {client.name: ROWS[client.name] for client in FETCHING} == {
        client.name: ("yes", "yes") for client in FETCHING
    }


def test_every_other_row_has_a_test_that_names_its_program() -> None:
    others = set(ROWS) - {client.name for client in FETCHING} - {"program", "option"}
    assert others == {"Node fetch", "git", "pip", "uv", "npm", "MCP Python client"}
    tests = " ".join(name for name in vars(test_tools) if name.startswith("test_"))
    for program in ("git", "pip", "uv", "npm", "mcp_client"):
        assert f"_{program}_" in tests


def test_every_variable_that_is_set_is_named() -> None:
    trust = TrustFiles(Path("/b"), Path("/s"), Path("/w"))
    proxy = Proxy.parse("http://127.0.0.1:1")
    for name in program_environment({}, proxy, trust, None, own_wgetrc=False):
        assert f"`{name}`" in PAGE or f"`{name.upper()}`" in PAGE
    assert set(BUNDLE_VARIABLES) <= set(re.findall(r"`(\w+)`", PAGE))
