"""Programs that fetch a URL: they pay for what is not free, and show a stream as it comes."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.programs.conftest import Shops
from tests.programs.support.machine import CLIENTS, Machine
from tests.programs.support.programs import FETCHING, Client

pytestmark = pytest.mark.real


def _if_installed(client: Client) -> Any:
    """Skips programs that a machine need not have; one of ours (a path) has to be there."""
    missing = isinstance(client.command[0], str) and shutil.which(client.command[0]) is None
    mark = pytest.mark.skipif(missing, reason=f"there is no {client.command[0]} on this machine")
    return pytest.param(client, id=client.name, marks=mark)


every_client = pytest.mark.parametrize("client", [_if_installed(client) for client in FETCHING])


@every_client
def test_it_pays_over_http(client: Client, shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    output = machine.run([*client.command, f"{shops.http}/paid/text"])
    assert (output.code, output.text) == (0, "content\n"), output.stderr
    assert machine.paid() == before + 1


@every_client
def test_it_pays_over_https_and_the_stream_arrives_event_by_event(
    client: Client, shops: Shops, machine: Machine
) -> None:
    before = machine.paid()
    output = machine.run_watching([*client.command, f"{shops.https}/paid/stream"], shops.https)
    assert output.code == 0, output.stderr
    assert [line for line in output.lines if line != "\n"] == [f"data: {number}\n" for number in range(5)]
    assert machine.paid() == before + 1


@every_client
def test_a_host_that_is_not_paid_is_reached_with_its_own_certificate(
    client: Client, shops: Shops, machine: Machine
) -> None:
    """egress tunnels it; its authority was the user's own before, and is in the bundle still."""
    output = machine.run([*client.command, f"{shops.untouched}/free/text"])
    assert (output.code, output.text) == (0, "content\n"), output.stderr


@pytest.mark.parametrize("client", [_if_installed(client) for client in FETCHING[:2]])
def test_without_keyctl_it_gets_a_402(client: Client, shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    output = machine.run_bare([*client.command, f"{shops.http}/paid/text"])
    assert output.code != 0
    assert output.text == ""
    assert machine.paid() == before


def test_a_host_named_in_no_proxy_is_reached_directly(shops: Shops, machine: Machine) -> None:
    before = machine.paid()
    output = machine.run(["curl", "-sSi", f"{shops.http}/paid/text"], no_proxy="127.0.0.1")
    assert output.lines[0].startswith("HTTP/1.1 402")
    assert "X-402-Egress" not in output.text
    assert machine.paid() == before


def node_reads_proxy_variables() -> bool:
    """NODE_USE_ENV_PROXY came with Node 24.0 and 22.21."""
    said = subprocess.run(["node", "-p", "JSON.stringify(process.versions)"], capture_output=True, check=True)
    major, minor = (int(part) for part in json.loads(said.stdout)["node"].split(".")[:2])
    return major >= 24 or (major, minor) >= (22, 21)


def test_nodes_own_fetch_pays_if_node_reads_proxy_variables_and_goes_past_egress_if_not(
    shops: Shops, machine: Machine
) -> None:
    before = machine.paid()
    output = machine.run(["node", CLIENTS / "with_fetch.mjs", f"{shops.http}/paid/text"])
    if node_reads_proxy_variables():
        assert (output.code, output.text) == (0, "content\n"), output.stderr
        assert machine.paid() == before + 1
    else:
        assert "Error: status 402" in output.stderr
        assert machine.paid() == before
