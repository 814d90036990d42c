"""`osmoda-reconcile` as a timer runs it: exit codes, one line for people, JSON lines for journald, and no key in either."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.reconcile.conftest import Stage
from tests.reconcile.support import NETWORK, answering
from tests.reconcile.test_pass import VOID

TABLE = {"network": NETWORK, "rpc": ["http://127.0.0.1:8545"]}


async def command(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs it as a process of its own, while this one's event loop goes on serving it."""
    arguments = [sys.executable, "-m", "reconcile", "--config", str(config), *options]
    # A proxy in the environment is for programs that pay, not for the one that watches them.
    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    return await asyncio.to_thread(
        subprocess.run, arguments, capture_output=True, text=True, timeout=240, check=False, env=environment
    )


def write(folder: Path, settings: dict[str, Any]) -> Path:
    config = folder / "reconcile.toml"
    config.write_text(tomli_w.dumps(settings))
    return config


def config_of(stage: Stage, **network: Any) -> Path:
    table = {"network": NETWORK, "rpc": [node.url for node in stage.nodes], "block": "latest"}
    return write(stage.rig.path, {"keyd_socket": str(stage.socket), "networks": [table | network]})


async def test_a_pass_says_what_became_of_the_payments(stage: Stage) -> None:
    payments = [await stage.pay(what=n) for n in range(3)]
    stage.advance(VOID)
    transaction = stage.chain.settle(payments[0], payments[0].signed_at)
    result = await command(config_of(stage))
    assert (result.returncode, result.stdout) == (
        0,
        "reconciled: 1 settled, 2 released, 0 open, 0 unreachable\n",
    )
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["event"] for line in lines].count("reconcile.payment.released") == 2
    settled = next(line for line in lines if line["event"] == "reconcile.payment.settled")
    assert (settled["payment"], settled["transaction"]) == (payments[0].payment_id, transaction)


async def test_a_fault_is_an_error_with_a_hint_and_names_hosts_only(stage: Stage) -> None:
    await stage.pay()
    stage.nodes[0].http = answering(b"no", 403)
    result = await command(config_of(stage))
    assert result.returncode == 1
    assert result.stdout == "reconciled: 0 settled, 0 released, 0 open, 1 unreachable\n"
    *logs, error, hint = result.stderr.splitlines()
    assert error == "osmoda-reconcile: error: nothing could be concluded about 1 of the payments"
    assert hint.startswith("osmoda-reconcile: hint: ")
    assert json.loads(logs[0])["server"] == stage.nodes[0].url.split("/")[2]
    assert "api-key" not in result.stderr


async def test_a_network_without_servers_is_a_warning(stage: Stage) -> None:
    await stage.pay()
    result = await command(config_of(stage, network="eip155:8453"))
    assert result.returncode == 0
    assert result.stdout.endswith("0 unreachable, 1 with no RPC configured\n")
    [line] = [json.loads(line) for line in result.stderr.splitlines()]
    assert (line["level"], line["network"]) == ("warning", NETWORK)


async def test_a_keyd_that_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    config = write(tmp_path, {"keyd_socket": str(tmp_path / "no.sock"), "networks": [TABLE]})
    result = await command(config)
    assert (result.returncode, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"osmoda-reconcile: error: cannot reach keyd at {tmp_path / 'no.sock'}: ")
    assert "start osmoda-keyd" in hint


async def test_check_reads_the_file_and_asks_nobody(stage: Stage) -> None:
    await stage.pay()
    result = await command(config_of(stage), "--check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert stage.nodes[0].requests == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "key 'networks' is missing"),
        ({"networks": []}, "networks: "),
        ({"networks": [TABLE], "sockt": "x"}, "(known: alerts, heads, keyd_socket, networks, state_dir)"),
        ({"networks": [TABLE | {"blok": "safe"}]}, "unknown key 'networks.0.blok', did you mean 'block'?"),
        ({"networks": [TABLE | {"block": "pending"}]}, "'finalized', 'safe' or 'latest'"),
        ({"networks": [TABLE | {"network": "base"}]}, "networks.0.network"),
        ({"networks": [TABLE | {"agree": 2}]}, "agree = 2, but rpc lists 1"),
        ({"networks": [TABLE | {"agree": 0}]}, "networks.0.agree"),
        ({"networks": [TABLE, TABLE]}, "eip155:84532 has two tables"),
        ({"networks": [TABLE | {"rpc": []}]}, "networks.0.rpc"),
        ({"networks": [TABLE | {"rpc": TABLE["rpc"] * 2}]}, "listed twice"),
        ({"networks": [TABLE | {"rpc": ["ftp://example.com/secret"]}]}, "not a URL like https://"),
        ({"networks": [TABLE | {"rpc": ["https:///secret"]}]}, "not a URL like https://"),
        ({"networks": [TABLE | {"rpc": ["https://example.com:secret/"]}]}, "not a URL like https://"),
        ({"networks": [TABLE | {"rpc": ["https://example.com/a secret"]}]}, "not a URL like https://"),
        (
            {"networks": [TABLE | {"rpc": ["http://u:secret@example.com/secret"]}]},
            "server example.com: write https",
        ),
    ],
)
async def test_a_mistake_in_the_file_is_a_sentence_without_the_url(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    result = await command(write(tmp_path, settings))
    assert (result.returncode, result.stdout) == (2, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("osmoda-reconcile: error: ")
    assert words in error
    assert hint.startswith("osmoda-reconcile: hint: ")
    assert "secret" not in result.stderr
