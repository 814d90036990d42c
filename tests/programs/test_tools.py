"""Programs that make many requests of their own: version control, package managers, an MCP client."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.programs.conftest import Shops
from tests.programs.support.machine import CLIENTS, Machine, installed

pytestmark = pytest.mark.real


def test_git_clones_a_repository_whose_every_file_is_paid(shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    output = machine.run(["git", "clone", "-q", f"{shops.https}/paid/git/repo.git", "clone"])
    assert output.code == 0, output.stderr
    assert (machine.work / "clone/content.txt").read_text() == "content\n"
    assert machine.paid() > before + 3


def test_pip_installs_a_package_from_a_paid_index(shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-cache-dir", "--no-deps"]
    options = ["--disable-pip-version-check", "--target", "packages"]
    index = ["--index-url", f"{shops.https}/paid/simple/", "tinypkg"]
    output = machine.run([*command, *options, *index], PIP_CONFIG_FILE="/dev/null")
    assert output.code == 0, output.stderr
    assert (machine.work / "packages/tinypkg/__init__.py").exists()
    assert machine.paid() == before + 2  # the index page and the wheel


def test_uv_installs_a_package_from_a_paid_index(shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    uv = installed("venv") / "bin/uv"
    command = [uv, "pip", "install", "-q", "--no-cache", "--no-config", "--python", sys.executable]
    options = ["--target", "packages", "--default-index", f"{shops.https}/paid/simple/", "tinypkg"]
    output = machine.run([*command, *options])
    assert output.code == 0, output.stderr
    assert (machine.work / "packages/tinypkg/__init__.py").exists()
    assert machine.paid() >= before + 2


def test_npm_installs_a_package_from_a_paid_registry(shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    registry = f"{shops.https}/paid/npm/"
    command = ["npm", "install", "tinypkg", "--prefix", ".", "--cache", "cache", "--registry", registry]
    output = machine.run([*command, "--no-audit", "--no-fund", "--loglevel=error"])
    assert output.code == 0, output.stderr
    assert (machine.work / "node_modules/tinypkg/index.js").exists()
    assert machine.paid() >= before + 2  # the document, which it may ask for again, and the tarball


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_official_mcp_client_pays_for_every_message(scheme: str, shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    python: Path = installed("venv") / "bin/python"
    output = machine.run([python, CLIENTS / "with_mcp.py", f"{getattr(shops, scheme)}/paid/mcp"])
    assert (output.code, output.text) == (0, "content\n"), output.stderr
    assert machine.paid() >= before + 4  # initialize, initialized, tools/list, tools/call
