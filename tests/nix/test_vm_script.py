"""The script of the VM test, played against the real daemons on this machine: no VM, no NixOS, one user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo.programs import BIN, Program
from demo.stack import Egress, Keyd
from tests.nix.nix import ROOT, Nix
from tests.nix.test_package import with_echo

pytestmark = [pytest.mark.real, pytest.mark.slow]

SELLER = "http://127.0.0.1:4021"
PROXY = "http://127.0.0.1:19999"
BOOT = ("systemctl ", "systemd-creds ")


@dataclass
class Machine:
    """What the NixOS test driver calls `machine`, as far as one user on one machine can stand in for it."""

    keyd: Keyd
    here: dict[str, str]
    """What is written in the script → what stands for it here."""
    done: list[str] = field(default_factory=list)

    def succeed(self, command: str) -> str:
        self.done.append(command)
        if any(word in command for word in BOOT):
            return ""  # the daemons run, and have their key
        for written, ours in self.here.items():
            command = command.replace(written, ours)
        ran = subprocess.run(
            ["sh", "-c", command],
            env={
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "OSMODA_KEYD_SOCKET": str(self.keyd.socket),
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
        return ran.stdout

    def fail(self, command: str) -> None:
        """Not here: what another user may not do needs another user."""

    def wait_for_unit(self, unit: str) -> None:
        """Its program was started, which waits until it is ready."""

    def wait_for_open_port(self, port: int) -> None:
        """The same."""

    def shutdown(self) -> None:
        self.keyd.stop()

    def start(self) -> None:
        self.keyd.start()


@contextmanager
def subtest(_name: str) -> Iterator[None]:
    yield


@pytest.fixture
def boot(nix: Nix, tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Starts a seller and both daemons, with the policy of the VM's configuration and `changes` of it."""
    with ExitStack() as running:

        def start(**changes: Any) -> Machine:
            seller = Program(
                "seller",
                [
                    sys.executable,
                    "-m",
                    "demo.seller",
                    "--pay-to",
                    "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                ],
                tmp_path / "seller.log",
                {"PYTHONPATH": str(ROOT)},
            )
            running.callback(seller.stop)
            url = seller.start()["url"]
            policy = with_echo(nix, "machine.services.osmoda.keyd.x402")
            assert policy["allowedDomains"] == [SELLER]
            keyd = Keyd(tmp_path, {"allowed_domains": [url], "networks": policy["networks"], **changes})
            assert keyd.keyctl("init").returncode == 0
            running.callback(keyd.stop)
            keyd.start()
            egress = Egress(tmp_path, keyd.socket, {"allow_private": [url.removeprefix("http://")]})
            running.callback(egress.stop)
            egress.start()
            here = {
                "su - alice -c": "sh -c",
                "osmoda-keyctl": f"osmoda-keyctl --config {keyd.config}",
                SELLER: url,
                PROXY: egress.url,
            }
            return Machine(keyd, here)

        yield start


def test_the_script_of_the_vm_test_passes(nix: Nix, boot: Callable[..., Machine]) -> None:
    machine = boot()
    exec(with_echo(nix, "vm.testScript"), {"machine": machine, "subtest": subtest})
    assert machine.done[-1] == "osmoda-keyctl ledger verify"


def test_the_script_of_the_vm_test_fails_where_nothing_is_paid(
    nix: Nix, boot: Callable[..., Machine]
) -> None:
    machine = boot(max_payment_usd="0.0001")
    with pytest.raises(AssertionError, match="402"):
        exec(with_echo(nix, "vm.testScript"), {"machine": machine, "subtest": subtest})
