"""Every command that an error, a reason or a page tells people to type is one that is there, and that parses."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest

from keyd.cli.app import cli
from keyd.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
CODE = [
    file
    for room in ("keyd", "egress", "reconcile", "ledger", "bridge")
    for file in (ROOT / room).rglob("*.py")
]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
QUOTED = re.compile(r"`([^`\n]+)`")
ON_A_PATH = (
    "osmoda-keyctl",
    "osmoda-setup",
    "osmoda-bridge",
    "osmoda-fence",
    "osmoda-egress",
    "osmoda-reconcile",
)
"""What `make install` and the Debian package link into BINDIR, and NixOS has in its profile."""
BY_HAND = "osmoda-keyd"
"""A unit starts it. Pages name it for who runs it without systemd."""
SYSTEM = ("chmod", "journalctl", "systemctl", "systemd-creds", "systemd-run")
SHIPPED = {unit.name for unit in (ROOT / "systemd").rglob("osmoda-*.*")}


def strings(file: Path, *, docstrings: bool = True) -> Iterator[str]:
    """The texts in the code of `file`; what is put into one at run time stands there as `X`."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    said_to_nobody = {id(node.value) for node in nodes if isinstance(node, ast.Expr) and not docstrings}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said_to_nobody
        ):
            yield node.value


def commands(texts: Iterable[str]) -> set[str]:
    """What stands between backticks and begins like one. A program or unit by its bare name is none."""
    quoted = {match[1].removeprefix("sudo ") for text in texts for match in QUOTED.finditer(text)}
    programs = "|".join(["keyctl", "osmoda-[a-z]+", *SYSTEM])
    return {command for command in quoted if re.match(rf"({programs}) (?!COMMAND)", command)}


NAMED = {command for file in CODE for command in commands(strings(file))}
ON_PAGES = {command for page in PAGES for command in commands([page.read_text("utf-8")])}


def test_there_are_commands_to_look_at() -> None:
    assert commands(reason.explanation.remedy for reason in Reason) <= NAMED
    assert "osmoda-keyctl x402 approve ID" in NAMED
    assert len(NAMED) > 50
    assert len(ON_PAGES) > 50


@pytest.mark.parametrize("command", sorted(NAMED | ON_PAGES))
def test_a_command_that_people_are_told_to_type_is_there(command: str) -> None:
    assert_is_there(command)


@pytest.mark.parametrize(
    "command",
    ["keyctl x402 aprove ID", "keyctl doctor --all", "keyctl x402 approve ID ID", "osmoda-doctor now",
     "systemctl restart osmoda-keyring", "journalctl -u osmoda"],
)  # fmt: skip
def test_a_command_that_is_not_there_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        assert_is_there(command)


@pytest.mark.parametrize("room", ["egress", "reconcile", "ledger", "bridge", "keyd"])
def test_whoever_does_not_know_by_which_name_keyctl_is_called_uses_the_one_that_every_machine_has(
    room: str,
) -> None:
    """keyctl itself writes its texts in the name by which it was called: tests/cli/test_program.py."""
    files = [file for file in (ROOT / room).rglob("*.py") if "cli" not in file.parts]
    texts = [text for file in files for text in strings(file, docstrings=False)]
    assert {command for command in commands(texts) if command.startswith("keyctl ")} == set()


@pytest.mark.parametrize("file", (ROOT / "keyd/cli/doctor").glob("*.py"), ids=lambda file: file.name)
def test_a_remedy_of_doctor_names_units_and_commands_that_are_there(file: Path) -> None:
    """doctor shows remedies without backticks."""
    for text in strings(file):
        for units in re.findall(r"systemctl [a-z]+(?: --now)? ((?:osmoda-[\w.-]+ ?)+)", text):
            assert_is_there(f"systemctl restart {units}")
        for command in re.findall(r"(?<![\w`/.-])keyctl (?!is )([a-z0-9-]+)", text):
            assert command in cli.commands


def test_what_is_linked_is_what_may_be_named() -> None:
    install, uninstall = ((ROOT / "systemd" / name).read_text("utf-8") for name in ("install", "uninstall"))
    for script in (install, uninstall):
        [linked] = re.findall(r"for name in (osmoda-keyctl .*); do$", script, re.MULTILINE)
        assert set(linked.split()) == set(ON_A_PATH)


def assert_is_there(command: str) -> None:
    """Each of the alternatives in it: `keyctl wallet kek|rotate-kek` are two."""
    for alternative in alternatives(shlex.split(command.replace("…", "X"))):
        program, *words = alternative
        units = [word for word in words if word.startswith("osmoda")]
        if program in ("keyctl", "osmoda-keyctl"):
            assert_parses(words)
        elif program in ("systemctl", "journalctl"):
            assert {unit if "." in unit else f"{unit}.service" for unit in units} <= SHIPPED
        else:
            assert program in (*ON_A_PATH, *SYSTEM, BY_HAND)


def alternatives(words: list[str]) -> list[list[str]]:
    return [list(one) for one in itertools.product(*(word.split("|") for word in words))]


def assert_parses(words: list[str]) -> None:
    """They name a command of keyctl, options that it has, and not more arguments than it takes."""
    found: click.Command = cli
    context = click.Context(cli, info_name="keyctl")
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        command = found.get_command(context, name)
        assert command is not None, name
        found, context = command, click.Context(command, parent=context, info_name=name)
    if not words:
        return  # a command or a group by its name alone
    if words[-1].startswith("--"):
        takes_value = [option for option in found.params if words[-1] in option.opts]
        assert takes_value, words[-1]
        words.append("X") if not getattr(takes_value[0], "is_flag", False) else None
    _, left, _ = found.make_parser(context).parse_args(words)
    assert left == []
