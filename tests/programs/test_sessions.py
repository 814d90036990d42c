"""`keyctl x402 run --label NAME --budget USD -- CMD`: real programs in real sessions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.programs import BIN
from tests.programs.conftest import Shops
from tests.programs.support.machine import Machine
from tests.programs.support.programs import Client
from tests.programs.test_fetching import every_client

pytestmark = pytest.mark.real


def ask(machine: Machine, *arguments: str) -> str:
    return machine.payer.succeed("x402", *arguments)


def spent_by_session(machine: Machine) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(ask(machine, "spend", "--by", "session", "--json"))["rows"]
    return rows


def curl(url: str, *, times: int = 1, parallel: int = 1) -> list[str]:
    """A shell that asks for `url` so often, each time as a purchase of its own, and prints egress's words."""
    ask_once = f"curl -sS -o /dev/null -D - -H 'X-402-Intent: {{}}' {url} | grep -i x-402-egress"
    return ["sh", "-c", f'seq {times} | xargs -P {parallel} -I{{}} sh -c "{ask_once}"']


def test_a_command_spends_its_own_budget_and_no_more(shops: Shops, machine: Machine) -> None:
    output = machine.run_in_session(curl(f"{shops.http}/paid/text", times=3), "research", "0.002")
    assert output.code == 0
    said = [line.strip() for line in output.lines]
    assert [line.split(";")[0] for line in said] == ["X-402-Egress: paid"] * 2 + ["X-402-Egress: rejected"]
    assert said[2].endswith("reason=budget_session")
    [row] = [row for row in spent_by_session(machine) if row["key"].startswith("research/")]
    assert (row["usd"], row["calls"]) == ("0.002", 2)
    assert output.stderr == f"keyctl: session {row['key']}: $0.002 of $0.002 spent\n"
    assert ask(machine, "sessions") == "no session is open\n"
    newest = machine.payer.entries("x402.payment.signed")[-1]["data"]
    assert f"in session {row['key']}" in ask(machine, "show", newest["payment_id"])


def test_parallel_requests_do_not_overspend_a_session(shops: Shops, machine: Machine) -> None:
    output = machine.run_in_session(
        curl(f"{shops.http}/paid/text", times=24, parallel=8), "parallel", "0.005"
    )
    paid = [line for line in output.lines if ": paid;" in line]
    refused = [line for line in output.lines if "reason=budget_session" in line]
    assert (len(paid), len(refused)) == (5, 19), output.text
    assert [row["usd"] for row in spent_by_session(machine) if row["key"].startswith("parallel/")] == [
        "0.005"
    ]


def test_two_runs_with_one_label_are_two_sessions(shops: Shops, machine: Machine) -> None:
    for _ in range(2):
        output = machine.run_in_session(curl(f"{shops.http}/paid/text"), "twice", "0.001")
        assert ": paid;" in output.text
    rows = [row for row in spent_by_session(machine) if row["key"].startswith("twice/")]
    assert [(row["usd"], row["calls"]) for row in rows] == [("0.001", 1)] * 2


TELL = "import os, json; print(json.dumps([os.environ['HTTPS_PROXY'], open('/proc/self/cmdline').read(), os.getppid()]))"


def test_the_token_is_in_the_environment_alone_and_worth_nothing_afterwards(
    shops: Shops, machine: Machine
) -> None:
    output = machine.run_in_session([sys.executable, "-c", TELL], "secret", "1.00")
    proxy, command_line, _ = json.loads(output.text)
    token = proxy.removeprefix("http://session:").partition("@")[0]
    assert len(token) == 43
    assert token not in command_line + output.stderr
    late = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-D", "-", "--proxy", proxy, f"{shops.http}/paid/text"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "reason=session_invalid" in late.stdout
    folder = machine.payer.folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert machine.payer.keyd.log in files
    assert [str(path) for path in files if token.encode() in path.read_bytes()] == []


def test_what_runs_inside_of_the_command_is_in_the_session_too(shops: Shops, machine: Machine) -> None:
    inner = [str(BIN / "keyctl"), "x402", "run", "--ca", str(machine.payer.egress.ca_certificate)]
    command = [*inner, "--no-proxy", "", "--", *curl(f"{shops.http}/paid/text", times=2)]
    output = machine.run_in_session(command, "outer", "0.001")
    assert ": paid;" in output.text
    assert "reason=budget_session" in output.text
    nested = machine.run_in_session([*inner, "--label", "inner", "--budget", "1", "true"], "outer", "0.001")
    assert nested.code == 1
    assert "a session is its user's" in nested.stderr


@every_client
def test_programs_carry_the_session_with_them(client: Client, shops: Shops, machine: Machine) -> None:
    output = machine.run_in_session([*client.command, f"{shops.https}/paid/text"], "any", "0.001")
    assert (output.code, output.text) == (0, "content\n"), output.stderr
    signed = machine.payer.entries("x402.payment.signed")[-1]["data"]
    if client.name.startswith("Java"):  # shows no credentials unasked, and so pays as its user
        assert "session" not in signed
    else:
        assert signed["session"]["label"] == "any"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command_and_ends_the_session(number: signal.Signals, machine: Machine) -> None:
    words = machine.words(["sh", "-c", "echo $$; exec sleep 60"], "--label", "long", "--budget", "1")
    environment = {"OSMODA_KEYD_SOCKET": str(machine.payer.keyd.socket), "HOME": str(machine.home)}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as keyctl:
        assert keyctl.stdout is not None
        assert keyctl.stderr is not None
        child = int(keyctl.stdout.readline())
        assert "long" in ask(machine, "sessions")
        keyctl.send_signal(number)
        assert keyctl.wait(60) == 128 + number
        assert "of $1.00 spent" in keyctl.stderr.read()
    assert not Path(f"/proc/{child}").exists()
    assert ask(machine, "sessions") == "no session is open\n"


def test_a_command_that_does_not_exist_leaves_no_session_open(machine: Machine) -> None:
    output = machine.run_in_session(["no-such-program"], "none", "1.00")
    assert output.code == 127
    assert ask(machine, "sessions") == "no session is open\n"


def test_without_keyd_nothing_is_run(machine: Machine) -> None:
    words = machine.words(["echo", "ran"], "--label", "none", "--budget", "1.00")
    done = machine._start(words, {"OSMODA_KEYD_SOCKET": "/nowhere/keyd.sock"})
    assert (done.code, done.text) == (1, "")
    assert "/nowhere/keyd.sock" in done.stderr
