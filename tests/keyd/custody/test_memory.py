"""Root searches keyd's memory for what should be gone: a private key after it signed, passphrases after they were used.

keyd runs with the allocator that its unit asks for. Needs root, to read the memory of a process that forbids it.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from demo.programs import BIN, Program
from keyd import api, process
from keyd.client import KeydClient
from tests.keyd.conftest import sign_request

ROOT = Path(__file__).resolve().parents[3]
UNIT = (ROOT / "systemd/osmoda-keyd.service").read_text("utf-8")
ENVIRONMENT = dict(
    pair.split("=", 1)
    for line in re.findall("^Environment=(.*)$", UNIT, re.MULTILINE)
    for pair in line.split()
)
OF_KEK, OF_EXPORT, OF_BACKUP, OF_NEW_KEK = (secrets.token_hex(16) for _ in range(4))

FORGETTING_S = 20.0
"""Nothing that stays is gone by then, and everything else is, however slow the machine."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read another process's memory")


def configured(folder: Path) -> Path:
    """Of a keyd that is set up in `folder`, its key under a passphrase."""
    config = folder / "keyd.toml"
    config.write_text(
        f'socket = "{folder}/keyd.sock"\nstate_dir = "{folder}/state"\nkek_file = "{folder}/kek"\n'
        "[peers]\negress = [0]\nadmin = [0]\n"
        '[x402]\nallowed_domains = ["api.example.com"]\nnetworks = ["eip155:84532"]\n'
    )
    passphrase = folder / "kek-passphrase"
    passphrase.touch(0o600)
    passphrase.write_text(OF_KEK)
    init = [BIN / "keyctl", "--config", config, "init", "--passphrase-file", passphrase]
    subprocess.run(init, check=True, capture_output=True, timeout=60)
    return config


def program(folder: Path, config: Path, *limits: str) -> Program:
    """keyd as its unit starts it, behind a command that changes what it may."""
    command = [*limits, BIN / "osmoda-keyd", "--config", config]
    return Program(
        "keyd", command, folder / "keyd.log", {**ENVIRONMENT, "CREDENTIALS_DIRECTORY": str(folder)}
    )


@pytest.fixture(scope="module")
def keyd() -> Iterator[Program]:
    with tempfile.TemporaryDirectory(prefix="osmoda-memory-") as name:
        started = program(Path(name), configured(Path(name)))
        started.start()
        yield started
        started.stop()


@pytest.fixture
async def client(keyd: Program) -> AsyncIterator[KeydClient]:
    async with KeydClient(str(keyd.log.with_name("keyd.sock"))) as client:
        yield client


def found(pid: int, secret: bytes) -> list[str]:
    """Where the process can read `secret`, or a half of it, or its hex."""
    middle = len(secret) // 2
    forms = {"whole": secret, "begin": secret[:middle], "end": secret[middle:], "hex": secret.hex().encode()}
    places = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None:
                continue
            begin, end = int(area[1], 16), int(area[2], 16)
            memory.seek(begin)
            content = memory.read(end - begin)
            places += [f"{form} in {line}" for form, needle in forms.items() if needle in content]
    return places


def left(pid: int, secret: bytes) -> list[str]:
    """What `found` finds once keyd has had time to forget: it answers a moment before it lets go of the question."""
    deadline = time.monotonic() + FORGETTING_S
    while (places := found(pid, secret)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return places


@needs_root
async def test_keys_and_passphrases_are_gone_from_memory_once_they_were_used(
    keyd: Program, client: KeydClient
) -> None:
    key = secrets.token_bytes(32)
    await client.wallet_import(api.WalletImport(label="default", private_key=key.hex()))
    assert left(keyd.pid, key) == []
    for what in range(20):
        await client.sign(sign_request(what=what))
    assert left(keyd.pid, key) == []
    await asyncio.gather(*(client.sign(sign_request(what=what)) for what in range(100, 120)))
    assert left(keyd.pid, key) == []
    export = api.WalletExport(label="default", confirm="default", passphrase=OF_EXPORT)
    await client.wallet_export(export)
    made = await client.backup(api.BackupMake(passphrase=OF_BACKUP))
    await client.backup_part(made.id, offset=0)
    await client.kek_rotate(api.KekRotate(passphrase=OF_NEW_KEK))
    for secret in (key, *(text.encode() for text in (OF_KEK, OF_EXPORT, OF_BACKUP, OF_NEW_KEK))):
        assert left(keyd.pid, secret) == []


@needs_root
async def test_the_search_finds_what_is_there(keyd: Program, client: KeydClient) -> None:
    """The key-encryption key is in memory as long as keyd runs, as docs/custody.md says; so is this very path."""
    await client.health()
    assert found(keyd.pid, str(keyd.log.with_name("state")).encode())


@pytest.mark.parametrize("left_out", ["GLIBC_TUNABLES", "PYTHONMALLOC"])
def test_keyd_knows_whether_freed_memory_is_overwritten(left_out: str) -> None:
    assert process.overwrites_freed_memory(ENVIRONMENT)
    assert not process.overwrites_freed_memory({k: v for k, v in ENVIRONMENT.items() if k != left_out})
    assert not process.overwrites_freed_memory({})


# -- swap -------------------------------------------------------------------------------------------------

BELOW_A_LIMIT = ("prlimit", "--memlock=8388608:8388608")
WITHOUT_THE_CAPABILITY = ("setpriv", "--bounding-set=-ipc_lock")


def may_lock() -> bool:
    """With a limit, root has to have the capability; without one, the unit's LimitMEMLOCK= is possible here."""
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return most == resource.RLIM_INFINITY or process._is_capable(process._CAP_IPC_LOCK)


def locked_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^VmLck:\s+(\d+) kB$", status, re.MULTILINE)[0])


def unlocked_heap(pid: int) -> list[str]:
    """Writable areas, where a key can be, of which a page that was touched is not locked."""
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE)
    found = []
    for area in areas[1:]:
        sizes = {name: int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", area, re.MULTILINE)}
        writable = area.split()[1].startswith("rw")
        if writable and sizes["Anonymous"] and not re.search(r"^VmFlags:.* lo( |$)", area, re.MULTILINE):
            found.append(area.splitlines()[0])
    return found


@needs_root
async def test_every_page_that_can_hold_a_key_is_locked_where_the_system_grants_it(
    keyd: Program, client: KeydClient
) -> None:
    if not may_lock():
        pytest.skip("needs an unlimited RLIMIT_MEMLOCK or CAP_IPC_LOCK")
    await client.wallet_create(api.WalletCreate(label="locked"))  # memory that came after the start, too
    assert locked_kib(keyd.pid) > 10_000
    assert unlocked_heap(keyd.pid) == []
    assert "keyd.memory.not_locked" not in keyd.log.read_text()


@needs_root
def test_a_keyd_that_may_not_lock_its_memory_says_so_and_starts(tmp_path: Path) -> None:
    started = program(tmp_path, configured(tmp_path), *BELOW_A_LIMIT, *WITHOUT_THE_CAPABILITY)
    started.start()
    try:
        assert locked_kib(started.pid) == 0
        assert unlocked_heap(started.pid) != []
        assert "keyd.memory.not_locked" in started.log.read_text()
    finally:
        started.stop()
