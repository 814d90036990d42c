"""The rules of imports in pyproject.toml hold, and each of them can fail."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]

OFFENCES = {
    "egress knows keyd by its socket contract alone": ("egress/paying/addon.py", "keyd.custody.keystore"),
    "within egress, the protocol stack asks what is paid, that asks who and where, and the wire format asks nobody": (
        "egress/wire/sse.py",
        "egress.paying.room",
    ),
    "reconcile knows keyd by its socket contract alone": ("reconcile/reconciler.py", "ledger.log"),
    "the bridge knows keyd by its socket contract alone": ("bridge/tools.py", "keyd.config"),
    "keyd knows no bridge, but for the marketplace that keyctl shows": ("keyd/server.py", "bridge.untrusted"),
    "keyctl asks keyd, and reads no key and no policy by itself": (
        "keyd/cli/app.py",
        "keyd.custody.keystore",
    ),
    "ledger knows nobody": ("ledger/log.py", "keyd.core.money"),
    "the pure core does no I/O, and gets clock and randomness as arguments": ("keyd/core/money.py", "time"),
    "keyd, ledger and reconcile stay clear of the proxy and of other HTTP clients": (
        "keyd/service.py",
        "requests",
    ),
    "the daemons do not load eth_account: 42 MB, and a second implementation of signing": (
        "keyd/core/eip3009.py",
        "eth_account",
    ),
    "the daemon with the keys speaks h11, and does not load aiohttp: 13 MB, and a client for networks": (
        "keyd/http/listener.py",
        "aiohttp",
    ),
    "nothing that is installed leans on tests, demo, bench or tools": (
        "egress/paying/addon.py",
        "demo.seller",
    ),
}
"""Rule → where an import is put that breaks it, and no other."""


def _check(tree: Path) -> subprocess.CompletedProcess[str]:
    # COLUMNS: a rule's name that is wrapped could not be found again.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(
        command, cwd=tree, capture_output=True, text=True, timeout=240, check=False, env={"COLUMNS": "500"}
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The rooms and the rules, free to be broken."""
    for room in RULES["root_packages"]:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_rules_hold() -> None:
    done = _check(ROOT)

    assert done.returncode == 0, done.stdout
    assert f"Contracts: {len(RULES['contracts'])} kept, 0 broken." in done.stdout


def test_every_rule_has_an_offence_that_shows_it_can_fail() -> None:
    assert OFFENCES.keys() == {rule["name"] for rule in RULES["contracts"]}


@pytest.mark.parametrize("rule", OFFENCES)
def test_an_offence_breaks_its_rule_and_no_other(rule: str, copy: Path) -> None:
    file, module = OFFENCES[rule]
    offender = copy / file
    offender.write_text(offender.read_text() + f"\nimport {module}\n")

    done = _check(copy)

    assert done.returncode == 1
    assert re.findall(r"^(.+) BROKEN", done.stdout, re.MULTILINE) == [rule]


def _foreign_imports(source: str) -> Iterator[str]:
    """Top-level packages that `source` imports and that Python does not bring along."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        yield from (name for name in names if name.split(".")[0] not in sys.stdlib_module_names)


def test_ledger_needs_nothing_but_python() -> None:
    """So that a ledger can be verified where nothing else is installed. A list of forbidden packages could not
    say this: it would have to name every package there is."""
    foreign = {
        name
        for file in (ROOT / "ledger").rglob("*.py")
        for name in _foreign_imports(file.read_text())
        if name.split(".")[0] != "ledger"
    }
    assert foreign == set()


def test_a_package_that_python_does_not_bring_is_seen() -> None:
    source = "import json\nfrom pydantic.fields import Field\ndef late():\n    import attr.validators\n"
    assert set(_foreign_imports(source)) == {"pydantic.fields", "attr.validators"}


PURE = "the pure core does no I/O, and gets clock and randomness as arguments"


def test_every_module_that_calls_itself_pure_is_under_the_rule() -> None:
    [listed] = [rule["source_modules"] for rule in RULES["contracts"] if rule["name"] == PURE]
    files = [file for room in RULES["root_packages"] for file in (ROOT / room).rglob("*.py")]
    claims = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if re.search(r"\bPure\b", ast.get_docstring(ast.parse(file.read_text())) or "")
    }
    assert "egress.wire.x402" in claims
    assert [name for name in sorted(claims) if not any(f"{name}.".startswith(f"{m}.") for m in listed)] == []
