"""The key-encryption key sealed to a TPM 2.0: systemd's own tools against a real TPM in software (swtpm).

What is not like a machine: no firmware measured anything, so the policy on PCRs is empty; and systemd-creds is told to use
the TPM, which it does by itself where the firmware announces one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import pytest

from demo.programs import BIN, Program
from keyd import api
from keyd.client import KeydClient

SYSTEMD_CREDS = shutil.which("systemd-creds")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as whoever seals a key to a machine"),
    pytest.mark.skipif(
        not (SYSTEMD_CREDS and shutil.which("swtpm") and find_library("tss2-tcti-swtpm")),
        reason="needs systemd-creds, swtpm and libtss2-tcti-swtpm0",
    ),
]


PLUGGED_IN = """#!/bin/sh
swtpm socket --tpm2 --flags not-need-init --tpmstate dir={folder}/tpm --daemon --pid file={folder}/tpm.pid \\
  --server type=unixio,path={folder}/tpm.sock --ctrl type=unixio,path={folder}/tpm.sock.ctrl
{systemd_creds} --with-key=tpm2 "$@"
code=$?
{python} -c "$SHUT_DOWN" {folder}/tpm.sock
kill "$(cat {folder}/tpm.pid)"
while [ -e {folder}/tpm.pid ]; do sleep 0.01; done
exit $code
"""
"""systemd-creds with the TPM switched on for this command: there is no kernel here that would take back from it what a
client left behind, and its memory is full after a few."""
SHUT_DOWN = """import socket, sys
tpm = socket.socket(socket.AF_UNIX)
tpm.connect(sys.argv[1])
tpm.sendall(bytes.fromhex("8001 0000000c 00000145 0000"))
assert tpm.recv(10).endswith(bytes(4))
"""
"""TPM2_Shutdown(TPM_SU_CLEAR): one that loses its power without it takes that for an attack, and locks itself."""


class Machine:
    """A folder with a TPM's memory, a sealed credential, and keyd's state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credential = folder / "kek.cred"
        self.credentials = folder / "credentials"
        self.socket = folder / "keyd.sock"
        self.config = folder / "keyd.toml"
        for name in ("tpm", "credentials", "bin"):
            (folder / name).mkdir(exist_ok=True)
        self.config.write_text(
            f'socket = "{self.socket}"\nstate_dir = "{folder}/state"\n[peers]\nadmin = [0]\negress = [0]\n'
        )
        plugged_in = folder / "bin/systemd-creds"
        plugged_in.write_text(
            PLUGGED_IN.format(folder=folder, python=sys.executable, systemd_creds=SYSTEMD_CREDS)
        )
        plugged_in.chmod(0o755)
        self.environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "SHUT_DOWN": SHUT_DOWN,
            "SYSTEMD_TPM2_DEVICE": f"swtpm:path={folder}/tpm.sock",
            "CREDENTIALS_DIRECTORY": str(self.credentials),
        }

    def run(self, *command: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            list(map(str, command)),
            input=data,
            capture_output=True,
            timeout=60,
            env={**os.environ, **self.environment},
        )

    def keyctl(self, *words: str | Path) -> dict[str, str]:
        done = self.run(BIN / "keyctl", "--socket", self.socket, *words)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)) if "--json" in words else {}

    def load_credential(self, systemd_creds: str = "systemd-creds") -> subprocess.CompletedProcess[bytes]:
        """What systemd does for LoadCredentialEncrypted=, before it starts keyd."""
        loaded = self.credentials / "kek"
        loaded.unlink(missing_ok=True)
        return self.run(systemd_creds, "decrypt", "--name=kek", self.credential, loaded)

    @contextmanager
    def keyd(self) -> Iterator[None]:
        assert self.load_credential().returncode == 0
        program = Program(
            "keyd", [BIN / "osmoda-keyd", "--config", self.config], self.folder / "log", self.environment
        )
        program.start()
        try:
            yield
        finally:
            program.stop()

    async def wallets(self) -> list[str]:
        """Those that open."""
        async with KeydClient(str(self.socket)) as client:
            held: api.WalletList = await client.wallet_list()
        assert held.damaged == []
        return [wallet.label for wallet in held.wallets]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """As `osmoda-setup` leaves it."""
    machine = Machine(tmp_path)
    seal = ["systemd-creds", "encrypt", "--name=kek", "-", machine.credential]
    sealed = machine.run(*seal, data=os.urandom(32))
    assert sealed.returncode == 0, sealed.stderr
    machine.keyctl("--config", machine.config, "init")
    return machine


async def test_a_key_that_a_tpm_sealed_opens_the_wallets_after_a_reboot_and_can_be_changed(
    machine: Machine,
) -> None:
    with machine.keyd():
        machine.keyctl("wallet", "create", "default")
        before = machine.keyctl("wallet", "kek", "--json")
        machine.keyctl("wallet", "rotate-kek", "--credential", machine.credential)
    with machine.keyd():
        assert await machine.wallets() == ["default"]
        assert machine.keyctl("wallet", "kek", "--json")["id"] != before["id"]


def test_without_that_tpm_the_key_stays_closed(machine: Machine) -> None:
    """A copy of the disk, in a machine without a TPM and in one with another."""
    assert machine.load_credential("systemd-creds").returncode == 0
    assert machine.load_credential(str(SYSTEMD_CREDS)).returncode != 0
    shutil.rmtree(machine.folder / "tpm")
    (machine.folder / "tpm").mkdir()
    assert machine.load_credential("systemd-creds").returncode != 0
    assert not (machine.credentials / "kek").exists()
