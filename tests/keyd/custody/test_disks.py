"""A real keyd on real disks that fail: a small tmpfs that is full, one that is read-only, an ext4 that the kernel gives up.

Nothing is signed then, the error says what to do, and afterwards nothing that was signed is lost. Needs root, to mount.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from demo.programs import BIN, Program, ProgramFailed
from keyd import api
from keyd.client import KeydClient, KeydRefused
from ledger.verify import verify
from tests.keyd.conftest import sign_request

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount"),
]


def run(*command: str | Path) -> None:
    """Raises CalledProcessError."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=240)


class Machine:
    """keyd, whose state is on the disk at `disk`."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.disk = disk
        self.socket = folder / "keyd.sock"
        self.ledger = disk / "state/ledger.sqlite3"
        self._config = folder / "keyd.toml"
        self._config.write_text(
            f'socket = "{self.socket}"\nstate_dir = "{disk}/state"\nkek_file = "{folder}/kek"\n'
            "[peers]\negress = [0]\nadmin = [0]\n"
            '[x402]\nallowed_domains = ["api.example.com"]\nnetworks = ["eip155:84532"]\n'
        )
        run(BIN / "keyctl", "--config", self._config, "init")
        self.keyd = Program("keyd", [BIN / "osmoda-keyd", "--config", self._config], folder / "keyd.log")

    async def ready(self) -> None:
        self.keyd.start()
        async with KeydClient(str(self.socket)) as client:
            await client.wallet_create(api.WalletCreate(label="default"))

    async def nonce(self, what: int) -> str:
        """Of the payment for request number `what`. Raises KeydRefused."""
        async with KeydClient(str(self.socket)) as client:
            return (await client.sign(sign_request(what=what))).payload.authorization.nonce

    async def assert_nothing_is_signed(self, fault: str) -> None:
        """Neither a payment nor a wallet is made, and both refusals and `health` name the fault."""
        async with KeydClient(str(self.socket)) as client:
            with pytest.raises(KeydRefused) as payment:
                await client.sign(sign_request(what=2))
            with pytest.raises(KeydRefused) as wallet:
                await client.wallet_create(api.WalletCreate(label="other"))
            (problem,) = (await client.health()).problems
        assert fault in payment.value.refusal.detail
        assert fault in problem
        for refused in (payment.value.refusal, wallet.value.refusal):
            assert refused.code == "ledger_unavailable"
            assert "Free disk space, or mend the file system" in refused.hint


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", disk)
    except subprocess.CalledProcessError:
        pytest.skip("mounting takes CAP_SYS_ADMIN")
    yield disk
    run("umount", disk)


@pytest.fixture
def on_tmpfs(tmp_path: Path, tmpfs: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, tmpfs)
    yield machine
    machine.keyd.stop()


async def test_on_a_full_disk_nothing_is_signed_and_afterwards_nothing_is_lost(on_tmpfs: Machine) -> None:
    await on_tmpfs.ready()
    signed = await on_tmpfs.nonce(1)
    filler = on_tmpfs.disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    await on_tmpfs.assert_nothing_is_signed("database or disk is full")
    filler.unlink()
    assert await on_tmpfs.nonce(1) == signed
    assert await on_tmpfs.nonce(2) != signed
    assert verify(on_tmpfs.ledger).ok


def test_on_a_read_only_disk_keyd_does_not_start_and_says_so(on_tmpfs: Machine) -> None:
    run("mount", "-o", "remount,ro", on_tmpfs.disk)
    with pytest.raises(ProgramFailed, match="Read-only file system") as failed:
        on_tmpfs.keyd.start()
    assert "osmoda-keyd: hint: Check that its folder exists, can be written" in str(failed.value)
    run("mount", "-o", "remount,rw", on_tmpfs.disk)
    on_tmpfs.keyd.start()


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """On a loop device; the kernel makes it read-only at the first error that it finds."""
    image, disk = tmp_path / "image", tmp_path / "ext4"
    disk.mkdir()
    image.write_bytes(bytes(24 << 20))
    try:
        run("mkfs.ext4", "-q", image)
        run("mount", "-o", "loop,errors=remount-ro", image, disk)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs loop devices and mkfs.ext4")
    yield disk
    run("umount", disk)


async def test_a_disk_that_the_kernel_gives_up_signs_nothing_and_loses_nothing(
    tmp_path: Path, ext4: Path
) -> None:
    machine = Machine(tmp_path, ext4)
    try:
        await machine.ready()
        signed = await machine.nonce(1)
        give_up(ext4)
        await machine.assert_nothing_is_signed("disk I/O error")
        machine.keyd.stop()
        mend(ext4, tmp_path / "image")
        assert verify(machine.ledger).ok
        machine.keyd.start()
        assert await machine.nonce(1) == signed
        assert await machine.nonce(2) != signed
    finally:
        machine.keyd.stop()


def give_up(disk: Path) -> None:
    """The kernel finds an error in the file system, and lets nobody write to it any more."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    device = next(Path(device).name for device, where, *_ in mounts if where == str(disk))
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("test\n")


def mend(disk: Path, image: Path) -> None:
    run("umount", disk)
    subprocess.run(["e2fsck", "-fy", str(image)], check=False, capture_output=True)  # 1: mended
    run("mount", "-o", "loop", image, disk)
