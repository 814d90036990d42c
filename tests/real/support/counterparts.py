"""The chain, the official facilitator and the official paid servers, as programs in environments of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.programs import Program

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "tests/real/counterparts"
CACHE = ROOT / ".cache/counterparts"
BALANCE_OF = "70a08231"
"""Selector of ERC-20 `balanceOf(address)`."""


@dataclass(frozen=True)
class Chain:
    """A running chain. Account names: deployer, facilitator, payer, payee, broke."""

    rpc: str
    network: str
    token: str
    accounts: dict[str, str]
    keys: dict[str, str]
    file: Path
    """All of this as JSON, for the other counterparts."""

    def balance(self, account: str) -> int:
        """Atomic units of the token."""
        call = {"to": self.token, "data": f"0x{BALANCE_OF}{self.accounts[account][2:].lower():0>64}"}
        return int(self._ask("eth_call", call, "latest"), 16)

    def _ask(self, method: str, *params: object) -> Any:
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        request = urllib.request.Request(
            self.rpc, json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["result"]


@dataclass(frozen=True)
class Authority:
    """A test CA and a certificate of it for `localhost`; all files are PEM."""

    ca: Path
    certificate: Path
    key: Path


def python(protocol: str) -> Path:
    """The Python of the official SDK that speaks `protocol`: "v1", "v2", or "siwx", which is v2 with sign-in."""
    interpreter = CACHE / f"venv-{protocol}/bin/python"
    if not (CACHE / f"{protocol}.stamp").exists():
        raise FileNotFoundError("the test counterparts are not installed: run `make counterparts`")
    return interpreter


def chain_program(folder: Path) -> Program:
    command: list[str | Path] = [python("v2"), SCRIPTS / "chain.py", "--npm", CACHE / "npm"]
    return Program("chain", command, folder / "chain.log")


def read_chain(ready: dict[str, Any], file: Path) -> Chain:
    """The chain that said `ready`, which is also written to `file`."""
    file.write_text(json.dumps(ready))
    fields = ("rpc", "network", "token", "accounts", "keys")
    return Chain(file=file, **{name: ready[name] for name in fields})


def facilitator_program(chain: Chain, folder: Path) -> Program:
    command: list[str | Path] = [python("v2"), SCRIPTS / "facilitator.py", "--chain", chain.file]
    return Program("facilitator", command, folder / "facilitator.log")


def server_program(
    protocol: str, chain: Chain, facilitator: str, folder: Path, authority: Authority | None = None
) -> Program:
    """The official paid server of `protocol`, over TLS if there is an `authority`."""
    name = f"server_{protocol}"
    command: list[str | Path] = [python(protocol), SCRIPTS / f"{name}.py"]
    command += ["--chain", chain.file, "--facilitator", facilitator]
    if authority:
        command += ["--tls-certificate", authority.certificate, "--tls-key", authority.key]
    return Program(name, command, folder / f"{name}{'-tls' if authority else ''}.log")


def ask_oracle(question: dict[str, Any]) -> Any:
    """What the official SDK answers; see counterparts/oracle.py."""
    done = subprocess.run(
        [python("v2"), SCRIPTS / "oracle.py"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask_facilitator(url: str, payload: dict[str, Any], requirements: dict[str, Any]) -> dict[str, Any]:
    """The official verdict on a payment, without settling it."""
    question = {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": requirements}
    request = urllib.request.Request(
        f"{url}/verify", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        verdict: dict[str, Any] = json.load(answer)
        return verdict


def seller_program(pay_to: str, folder: Path) -> Program:
    """The demo's seller: no chain, many requests a second."""
    command = [sys.executable, "-m", "demo.seller", "--pay-to", pay_to]
    return Program("seller", command, folder / "seller.log")
