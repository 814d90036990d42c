"""Backups: the machine is gone, and another one goes on with the same wallets, record and budget."""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import shutil
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd import api
from keyd.config import Settings
from keyd.core.policy import Deny
from keyd.custody import kek, restore, scrypt
from keyd.custody.kek import Kek
from keyd.custody.keystore import Keystore
from keyd.custody.restore import Restored, RestoreError
from keyd.custody.stream import OpeningReader, SealingWriter, StreamError
from keyd.files import make_private_directory
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.setup import SetupError, initialise, key_of_this_machine
from ledger.chain import Head
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.verify import verify
from tests.keyd.conftest import Rig

ADMIN = Peer(pid=1, uid=0, gid=0)
PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt's cost is measured elsewhere."""
    monkeypatch.setattr(scrypt, "N", 2)


async def fetched(rig: Rig, passphrase: str = PASSPHRASE) -> tuple[bytes, api.BackupMade]:
    made, content = await rig.backups.make(ADMIN, passphrase), b""
    while len(content) < made.size:
        part = rig.backups.part(made.id, len(content))
        assert isinstance(part, bytes)
        content += part
    return content, made


@pytest.fixture
def machine(tmp_path: Path) -> Settings:
    """Another one, with nothing on it."""
    return Settings(state_dir=tmp_path / "new" / "state", kek_file=tmp_path / "new" / "kek")


def put(content: bytes, machine: Settings, *known: Head, passphrase: str = PASSPHRASE) -> Restored:
    assert machine.kek_file is not None
    kek.create(machine.kek_file, secrets.token_bytes)
    key = kek.load(machine.kek_file, {}).kek
    return restore.restore(
        io.BytesIO(content), passphrase, machine, key, list(known), clock=lambda: 1_800_000_000_000_000
    )


def started(machine: Settings, make_rig: Callable[..., Rig]) -> Rig:
    """keyd on the restored files, with the key-encryption key of the new machine."""
    rig = make_rig(folder=machine.state_dir)
    rig.wallets.kek = kek.load(machine.kek_file, {}).kek
    return rig


async def test_another_machine_has_the_same_wallets_record_and_budget(
    rig: Rig, machine: Settings, make_rig: Callable[..., Rig]
) -> None:
    made = await rig.service.custody.create(ADMIN, "research", 0)
    assert isinstance(made, api.Wallet)
    await rig.service.custody.choose_default(ADMIN, "research")
    await rig.paid()
    open_one = await rig.paid(what=2)
    content, backup = await fetched(rig)
    head = rig.ledger.head()
    assert (backup.seq, backup.hash) == (head.seq, head.hash.hex())
    rig.ledger.close()

    done = put(content, machine, head)

    assert (done.head, done.wallets, done.damaged) == (head, 2, {})
    assert verify(machine.ledger_file).ok
    again = started(machine, make_rig)
    assert again.ledger.entries(limit=1, after=head.seq - 1)[0].hash == head.hash
    assert again.view().spent_today == "0.002"
    assert again.service.custody.default() == ("research", made.address)
    assert (await again.refused(what=3)).reason is Reason.FROZEN
    await again.admin.unfreeze(ADMIN)
    assert (await again.paid(what=2)).signature == open_one.signature  # a repeat costs nothing here, either
    assert again.view().spent_today == "0.002"
    assert [w.label for w in again.service.custody.wallets().wallets] == ["default", "research"]


async def test_a_backup_is_on_record_before_it_exists_and_in_itself(rig: Rig) -> None:
    content, made = await fetched(rig)
    [entry] = rig.entries("keyd.backup")
    assert (entry.actor, entry.data["wallets"], entry.seq) == ("uid:0", 1, made.seq)
    rig.ledger.close()
    with pytest.raises(LedgerError):
        await rig.backups.make(ADMIN, PASSPHRASE)
    assert not (rig.path / "backup").exists()
    assert content.startswith(b"osmoda-backup/v1 ")


async def test_a_backup_shows_nothing_without_its_passphrase(rig: Rig) -> None:
    content, _ = await fetched(rig)
    assert Kek(bytes(32)).reveal().hex().encode() not in content
    for word in (b"default", b"manifest", b"SQLite", b"ciphertext"):
        assert word not in content
    with pytest.raises(StreamError, match="passphrase does not open"):
        OpeningReader(io.BytesIO(content), PASSPHRASE + "x").read()


async def test_nothing_is_left_beside_the_ledger_and_a_backup_is_handed_out_once(rig: Rig) -> None:
    _, made = await fetched(rig)
    assert not (rig.path / "backup").exists()
    gone = rig.backups.part(made.id, 0)
    assert isinstance(gone, Deny)
    assert gone.reason is Reason.BACKUP_UNKNOWN
    again = await rig.backups.make(ADMIN, PASSPHRASE)
    assert [path.name for path in (rig.path / "backup").iterdir()] == [again.id]  # and no copy of the ledger
    rig.backups.sweep()
    assert isinstance(rig.backups.part(again.id, 0), Deny)


async def test_the_last_part_of_one_backup_takes_the_next_one_not_away(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two administrators at once: the second has made one while the first is still read."""
    first = await rig.backups.make(ADMIN, PASSPHRASE)
    reading, made, opened = asyncio.Event(), threading.Event(), Path.open
    loop = asyncio.get_running_loop()

    def slowly(path: Path, *arguments: Any, **named: Any) -> Any:
        file = opened(path, *arguments, **named)
        if path.name == first.id:
            loop.call_soon_threadsafe(reading.set)
            assert made.wait(60)
        return file

    monkeypatch.setattr(Path, "open", slowly)
    part = asyncio.create_task(asyncio.to_thread(rig.backups.part, first.id, 0))
    await reading.wait()
    second = await rig.backups.make(ADMIN, PASSPHRASE)
    made.set()
    assert isinstance(await part, bytes)
    assert isinstance(rig.backups.part(second.id, 0), bytes)


async def test_wallets_are_sealed_under_the_new_machines_key_alone(rig: Rig, machine: Settings) -> None:
    content, _ = await fetched(rig)
    put(content, machine)
    new = kek.load(machine.kek_file, {}).kek
    wallets = Keystore(machine.wallet_dir, new, secrets.token_bytes)
    assert wallets.kek_ids("default") == [new.id] != [Kek(bytes(32)).id]
    wallets.open("default")
    left = [path.name for path in machine.state_dir.rglob("*") if path.is_file()]
    assert set(left) <= {"default.json", "ledger.sqlite3", "ledger.sqlite3.lock", "overrides.toml"}
    old_key = bytes(32).hex().encode()
    files = [path for path in machine.state_dir.rglob("*") if path.is_file()]
    assert all(old_key not in path.read_bytes() for path in files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


# -- old, foreign, broken ---------------------------------------------------------------------------------


async def test_a_backup_older_than_a_known_head_is_refused(rig: Rig, machine: Settings) -> None:
    content, _ = await fetched(rig)
    await rig.paid()
    newer = rig.ledger.head()
    with pytest.raises(RestoreError, match="older than a head you kept"):
        put(content, machine, newer)
    assert not machine.ledger_file.exists()
    put(content, machine)  # who accepts the loss does not name the head


async def test_a_head_that_is_still_in_the_state_folder_is_a_known_one(rig: Rig, machine: Settings) -> None:
    """Ledger and wallets are gone, their newest signed head is not: the backup's heads must not hide what it lacks."""
    content, _ = await fetched(rig)
    await rig.paid()
    await rig.heads().sign()
    make_private_directory(machine.state_dir)
    shutil.copy(rig.path / "ledger.heads", machine.ledger_heads_file)
    with pytest.raises(RestoreError, match="older than a head you kept") as caught:
        put(content, machine)
    assert "ledger.heads moved away" in caught.value.hint
    newer, _ = await fetched(rig)
    put(newer, machine)


async def test_what_is_restored_is_frozen_even_if_the_disk_takes_no_more_than_the_journal(
    rig: Rig, machine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The freeze is in the journal alone, which is not moved along: then nothing is put in place."""
    content, _ = await fetched(rig)
    opened = Ledger.open

    def watched(path: Path, *, clock: Callable[[], int]) -> Ledger:
        ledger = opened(path, clock=clock)
        looking = sqlite3.connect(path, check_same_thread=False)  # as long as it looks, closing moves nothing
        looking.execute("BEGIN")
        looking.execute("SELECT * FROM meta").fetchall()
        lookers.append(looking)
        return ledger

    lookers: list[sqlite3.Connection] = []
    monkeypatch.setattr(Ledger, "open", watched)
    with pytest.raises(RestoreError, match="did not reach the ledger"):
        put(content, machine)
    for looker in lookers:
        looker.close()
    assert not machine.ledger_file.exists()


async def test_a_backup_of_another_ledger_is_refused(rig: Rig, machine: Settings) -> None:
    content, _ = await fetched(rig)
    with pytest.raises(RestoreError, match="of another ledger"):
        put(content, machine, Head(1, b"\x11" * 32))


@pytest.mark.parametrize("there", ["wallets", "ledger"])
async def test_an_existing_state_is_never_overwritten(rig: Rig, machine: Settings, there: str) -> None:
    content, _ = await fetched(rig)
    initialise(machine)
    if there == "wallets":
        Keystore(machine.wallet_dir, kek.load(machine.kek_file, {}).kek, secrets.token_bytes).create("own", 0)
    else:
        ledger = Ledger.open(machine.ledger_file, clock=lambda: 0)
        ledger.transact(lambda tx: tx.append("keyd.started", "keyd", {})).result()
        ledger.close()
    before = {path: path.read_bytes() for path in machine.state_dir.rglob("*") if path.is_file()}
    with pytest.raises(RestoreError, match="already") as refused:
        put(content, machine)
    assert "mv " in refused.value.hint
    after = {path: path.read_bytes() for path in machine.state_dir.rglob("*") if path.is_file()}
    assert after == before


async def test_only_the_owner_of_the_state_folder_restores(
    rig: Rig, machine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = await fetched(rig)
    initialise(machine)
    monkeypatch.setattr(restore.os, "geteuid", lambda: 12345)
    with pytest.raises(RestoreError, match="belongs to uid"):
        put(content, machine)


def test_a_credential_that_was_not_lent_is_asked_for_in_words(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="was not lent it"):
        key_of_this_machine(Settings(state_dir=tmp_path), {})


async def test_what_init_made_is_no_state(rig: Rig, machine: Settings) -> None:
    content, _ = await fetched(rig)
    initialise(machine)
    assert put(content, machine).wallets == 1


async def test_a_running_keyd_is_not_restored_over(rig: Rig, machine: Settings) -> None:
    content, _ = await fetched(rig)
    initialise(machine)
    running = Ledger.open(machine.ledger_file, clock=lambda: 0)
    with pytest.raises(LedgerError, match="in use by another keyd"):
        put(content, machine)
    running.close()


@pytest.mark.parametrize("cut", [10, 100, 5000, -1])
async def test_a_backup_that_was_cut_off_is_refused(rig: Rig, machine: Settings, cut: int) -> None:
    content, _ = await fetched(rig)
    with pytest.raises(RestoreError, match="does not open"):
        put(content[:cut], machine)
    assert not machine.ledger_file.exists()
    assert list(machine.state_dir.glob(".restore-*")) == []


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "wallets/../../evil", "wallets/.x.json", "evil"])
def test_a_backup_with_a_foreign_name_is_refused(machine: Settings, name: str) -> None:
    """Made by somebody who knows the passphrase."""
    target = io.BytesIO()
    sealing = SealingWriter(target, PASSPHRASE, secrets.token_bytes)
    with tarfile.open(fileobj=sealing, mode="w|") as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"bad"))
    sealing.close()
    with pytest.raises(RestoreError, match="which no backup does"):
        put(target.getvalue(), machine)
    assert not list(machine.state_dir.parent.rglob("evil*"))


async def test_a_wallet_that_was_damaged_stays_damaged_and_hides_no_other(
    rig: Rig, machine: Settings
) -> None:
    await rig.service.custody.create(ADMIN, "research", 0)
    (rig.path / "wallets" / "research.json").write_bytes(b"{}")
    content, _ = await fetched(rig)
    done = put(content, machine)
    assert set(done.damaged) == {"research"}
    assert (machine.wallet_dir / "research.json").read_bytes() == b"{}"


async def test_killed_while_moving_keyd_does_not_start_and_a_second_try_says_what_to_do(
    rig: Rig, machine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = await fetched(rig)
    real = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name == "ledger.sqlite3":
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put(content, machine)
    monkeypatch.undo()
    assert not machine.ledger_file.exists()
    with pytest.raises(RestoreError, match="holds wallets already"):
        put(content, machine)
    shutil.move(machine.state_dir, machine.state_dir.with_name("before"))
    assert put(content, machine).wallets == 1


# -- the stream -------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 200_000), max_size=6), st.integers(1, 100_000), st.randoms(use_true_random=False)
)
def test_a_stream_gives_back_what_was_written(sizes: list[int], step: int, random) -> None:  # type: ignore[no-untyped-def]
    plain = [random.randbytes(size) for size in sizes]
    target = io.BytesIO()
    writer = SealingWriter(target, PASSPHRASE, random.randbytes)
    for piece in plain:
        writer.write(piece)
    writer.close()
    reader, found = OpeningReader(io.BytesIO(target.getvalue()), PASSPHRASE), b""
    while piece := reader.read(step):
        found += piece
    assert found == b"".join(plain)


def sealed(size: int) -> tuple[bytes, int]:
    target = io.BytesIO()
    writer = SealingWriter(target, PASSPHRASE, secrets.token_bytes)
    writer.write(bytes(size))
    writer.close()
    return target.getvalue(), target.getvalue().index(b"\n") + 1


CHUNK = 64 * 1024 + 16


def swapped(content: bytes, start: int) -> bytes:
    one, two = content[start : start + CHUNK], content[start + CHUNK : start + 2 * CHUNK]
    return content[:start] + two + one + content[start + 2 * CHUNK :]


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        lambda content, start: content[: start + CHUNK],
        lambda content, start: content[: start + 2 * CHUNK],
        lambda content, start: content[:start] + content[start + CHUNK :],
        lambda content, start: content + content[start : start + CHUNK],
        lambda content, start: content[:-1],
        lambda content, start: content + b"\0",
        lambda content, start: content[: start + 99] + b"\1" + content[start + 100 :],
        lambda content, start: content.replace(b'"r": 8', b'"r": 9'),
        lambda content, start: content.replace(b"v1", b"v2", 1),
        lambda content, start: b"",
    ],
    ids=[
        "swapped",
        "one",
        "two",
        "first-gone",
        "appended",
        "short",
        "long",
        "flipped",
        "parameters",
        "version",
        "empty",
    ],
)
def test_a_stream_that_was_changed_does_not_open(change: Callable[[bytes, int], bytes]) -> None:
    content, start = sealed(150_000)
    OpeningReader(io.BytesIO(content), PASSPHRASE).read()
    with pytest.raises(StreamError):
        OpeningReader(io.BytesIO(change(content, start)), PASSPHRASE).read()


async def test_the_endpoint_gives_the_parts(rig: Rig) -> None:
    from keyd.http.messages import Request
    from keyd.routes.backup import BackupRoutes

    made = await rig.backups.make(ADMIN, PASSPHRASE)
    request = Request("GET", f"/backup/{made.id}?from=16", ADMIN)
    request.match_info = {"id": made.id}
    answer = api.BackupPart.model_validate_json((await BackupRoutes(rig.backups).part(request)).body)
    assert len(base64.b64decode(answer.data)) == made.size - 16
