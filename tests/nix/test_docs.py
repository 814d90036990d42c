"""docs/nixos.md: its example is accepted, and its table is true."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.nix.nix import ROOT, Nix

pytestmark = pytest.mark.real

PAGE = (ROOT / "docs/nixos.md").read_text()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    block = re.search(r"^    # flake.nix of the machine\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE)
    assert block is not None
    file = tmp_path / "flake.nix"
    file.write_text(textwrap.dedent(block[0]))
    return file


def test_the_module_accepts_the_example(nix: Nix, example: Path) -> None:
    settings = f"""
      builtins.elemAt ((import {example}).outputs {{
        nixpkgs.lib.nixosSystem = system: system;
        osmoda-x402.nixosModules.default = {{ }};
      }}).nixosConfigurations.machine.modules 2
    """
    system = nix.module("system", settings)
    assert system["failed"] == []
    assert system["units"].keys() == {"osmoda-keyd.service", "osmoda-keyd.socket", "osmoda-egress.service"}
    assert system["users"]["alice"]["extraGroups"] == ["osmoda", "osmoda-admin"]
    assert {"osmoda", "osmoda-admin"} <= set(system["groups"])


def test_the_table_names_options_that_exist_with_their_defaults(nix: Nix) -> None:
    defaults: dict[str, Any] = {o["name"]: o["default"] for o in nix.module("options", "{}")}
    rows = dict(
        re.findall(r"^\| `(services\.osmoda\.[A-Za-z0-9.]+)` \| .+? \| `(.+?)` \|$", PAGE, re.MULTILINE)
    )
    assert len(rows) == 12
    assert {name: defaults[name] for name in rows} == {name: json.loads(text) for name, text in rows.items()}
