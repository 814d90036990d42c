"""Signed heads: made when due, kept in order, and a ledger that no longer has one of them stops keyd."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from keyd import heads
from keyd.custody.headkey import HeadKey, HeadKeyFile
from keyd.custody.kek import Kek
from keyd.custody.secret import Secret
from keyd.heads import Heads
from ledger import kept, note
from ledger.errors import LedgerError, LedgerUnavailable
from ledger.log import Ledger
from ledger.verify import verify

KEK, OTHER = Kek(bytes(32)), Kek(bytes([1] * 32))
KEY = HeadKey(Secret(bytes(range(32))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.heads"


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[..., Ledger]:
    def make(*names: str, at: Path = tmp_path / "ledger.sqlite3") -> Ledger:
        ledger = Ledger.open(at, clock=lambda: 1_795_226_434_000_000)
        for name in names:
            ledger.transact(lambda tx, name=name: tx.append(name, "test", {})).result(60)
        return ledger

    return make


def notes(file: Path) -> list[str]:
    found, torn = note.split(file.read_text())
    assert torn == ""
    return found


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def content(file: Path) -> bytes:
    return file.read_bytes()


def cut_off(file: Path, whole: bytes, end: int) -> None:
    file.write_bytes(whole[:end])


def tear(file: Path) -> None:
    """Part of the same again, as a crash leaves it."""
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-40])


async def test_a_head_covers_everything_and_its_own_entry(ledger: Callable[..., Ledger], file: Path) -> None:
    with closing(ledger("a", "b")) as record:
        signed = await Heads(record, KEY, file).sign()
        last = record.entries(limit=1)[0]
    assert note.read(signed, KEY.key).head == (3, last.hash)
    assert (last.type, last.data) == ("ledger.checkpoint", {"key": str(KEY.key)})
    assert notes(file) == [signed]
    assert mode(file) == 0o600


async def test_nothing_new_is_nothing_to_sign(ledger: Callable[..., Ledger], file: Path) -> None:
    with closing(ledger("a")) as record:
        signing = Heads(record, KEY, file)
        assert len({await signing.sign() for _ in range(3)}) == 1
        assert record.head().seq == 2
        again = Heads(record, KEY, file)  # after a restart, too
        assert await again.sign() == notes(file)[-1]


async def test_heads_follow_each_other_whoever_asks_for_them_at_once(
    ledger: Callable[..., Ledger], file: Path
) -> None:
    with closing(ledger("a")) as record:
        signing = Heads(record, KEY, file)

        async def append_and_sign() -> None:
            await asyncio.wrap_future(record.transact(lambda tx: tx.append("b", "test", {})))
            await signing.sign()

        await asyncio.gather(*(append_and_sign() for _ in range(8)))
        sizes = [note.read(signed, KEY.key).size for signed in notes(file)]
    assert sizes == sorted(set(sizes))
    found = kept.heads([str(file)], KEY.key)
    verdict = verify(record.path, against=found)
    assert (verdict.ok, verdict.agreed) == (True, len(sizes))


@pytest.mark.parametrize(
    ("entries", "seconds", "due"),
    [(999, 0.0, False), (1000, 0.0, True), (1, 600.0, True), (0, 9999.0, False)],
)
async def test_a_head_is_due_after_so_many_entries_or_seconds(
    ledger: Callable[..., Ledger],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    entries: int,
    seconds: float,
    due: bool,
) -> None:
    looks = asyncio.Semaphore(0)
    looked = asyncio.Event()

    async def look(_: float) -> None:
        looked.set()
        await looks.acquire()

    monkeypatch.setattr(heads.asyncio, "sleep", look)
    now = [0.0]
    with closing(ledger()) as record:
        signing = Heads(record, KEY, file)
        task = asyncio.create_task(signing.keep_signing(lambda: now[0]))
        await asyncio.wait_for(looked.wait(), 60)
        looked.clear()
        if entries:
            record.transact(lambda tx: [tx.append("a", "test", {}) for _ in range(entries)]).result(60)
        now[0] = seconds
        looks.release()
        await asyncio.wait_for(looked.wait(), 60)
        task.cancel()
        assert (signing.newest is not None) == due


async def test_an_older_copy_of_the_ledger_is_not_gone_on_with(
    ledger: Callable[..., Ledger], file: Path, tmp_path: Path
) -> None:
    """Its budget would be forgotten, and a second history signed."""
    with closing(ledger("a")) as record:
        pass
    shutil.copy(record.path, tmp_path / "older")
    with closing(ledger("b")) as record:
        await Heads(record, KEY, file).sign()
    os.replace(tmp_path / "older", record.path)
    with (
        closing(ledger()) as record,
        pytest.raises(LedgerError, match="older copy, or its end was cut off") as caught,
    ):
        Heads(record, KEY, file)
    assert "put the right ledger back" in caught.value.hint
    os.rename(file, tmp_path / "away")  # the way out that the hint names
    with closing(ledger()) as record:
        assert Heads(record, KEY, file).newest is None


async def test_the_ledger_of_another_machine_is_not_gone_on_with(
    ledger: Callable[..., Ledger], file: Path, tmp_path: Path
) -> None:
    with closing(ledger("a")) as record:
        await Heads(record, KEY, file).sign()
    other = tmp_path / "other"
    with (
        closing(ledger("b", "c", "d", at=other)) as record,
        pytest.raises(LedgerError, match="it is another ledger, or was rewritten"),
    ):
        Heads(record, KEY, file)


async def test_the_ledger_of_another_machine_without_its_heads_is_not_gone_on_with(
    ledger: Callable[..., Ledger], file: Path, tmp_path: Path
) -> None:
    """Its budget is another one, and wallets that it does not name would be found and pay."""
    another = HeadKey(Secret(bytes(32)))
    with closing(ledger("a")) as record:
        await Heads(record, another, tmp_path / "theirs").sign()
    with (
        closing(ledger("b")) as record,
        pytest.raises(LedgerError, match="is of another keyd") as caught,
    ):
        Heads(record, KEY, file)
    assert "put the right ledger back" in caught.value.hint
    with closing(ledger()) as record:
        heads = Heads(record, KEY, file, key_is_new=True)  # the way out: the key was moved away as well
        assert heads.succeeds_another
        await heads.sign()
    with closing(ledger("c")) as record:
        assert not Heads(record, KEY, tmp_path / "none").succeeds_another


async def test_heads_of_another_keyd_are_not_believed(ledger: Callable[..., Ledger], file: Path) -> None:
    with closing(ledger("a")) as record:
        await Heads(record, KEY, file).sign()
        with pytest.raises(LedgerError, match="is not of this keyd"):
            Heads(record, HeadKey(Secret(bytes(32))), file)


async def test_a_head_that_a_crash_left_half_written_is_taken_away(
    ledger: Callable[..., Ledger], file: Path
) -> None:
    with closing(ledger("a")) as record:
        first = await Heads(record, KEY, file).sign()
        tear(file)
        again = Heads(record, KEY, file)
        assert again.newest == first
        assert notes(file) == [first]


async def test_a_head_may_be_cut_off_at_any_byte_even_within_a_character(
    ledger: Callable[..., Ledger], file: Path
) -> None:
    """A crash that cut the dash before a signature in two must not keep keyd from starting, nor heads from being read."""
    with closing(ledger("a")) as record:
        first = await Heads(record, KEY, file).sign()
        begin = len(content(file))
        record.transact(lambda tx: tx.append("b", "test", {})).result(60)
        await Heads(record, KEY, file).sign()
        whole = content(file)
        for end in range(begin, len(whole) - 1):
            cut_off(file, whole, end)
            assert Heads(record, KEY, file).newest == first, end
            assert notes(file) == [first], end


def test_heads_kept_elsewhere_are_read_up_to_one_that_was_cut_off_within_a_character(tmp_path: Path) -> None:
    two = "".join(f"{KEY.sign(note.Checkpoint(KEY.key.name, size, bytes(32)))}\n" for size in (1, 2)).encode()
    copy = tmp_path / "copy"
    copy.write_bytes(two + two[: two.index("—".encode()) + 1])
    assert [head.seq for head in kept.heads([str(copy)], KEY.key)] == [1, 2]


async def test_a_head_that_cannot_be_written_is_no_head(
    ledger: Callable[..., Ledger], tmp_path: Path
) -> None:
    with closing(ledger("a")) as record:
        signing = Heads(record, KEY, tmp_path / "missing" / "heads")
        with pytest.raises(LedgerUnavailable, match="could not be written"):
            await signing.sign()
        await signing.sign_if_possible()  # says so in the journal, and goes on
        assert signing.newest is None


async def test_a_head_that_the_disk_did_not_take_leaves_nothing_of_it_behind(
    ledger: Callable[..., Ledger], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next one would stand behind words that are no head, and none after it could be read."""
    with closing(ledger("a")) as record:
        signing = Heads(record, KEY, file)
        first = await signing.sign()
        record.transact(lambda tx: tx.append("b", "test", {})).result(60)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(heads.os, "fsync", full)
        with pytest.raises(LedgerUnavailable, match="No space left"):
            await signing.sign()
        monkeypatch.undo()
        assert notes(file) == [first]
        second = await signing.sign()
        assert notes(file) == [first, second]


# --- the key


def test_the_key_is_made_once_and_opens_with_the_same_key_encryption_key(tmp_path: Path) -> None:
    path = tmp_path / "ledger-key.json"
    file = HeadKeyFile(path, os.urandom)
    made = file.load_or_create(KEK)
    assert file.load_or_create(KEK).key == made.key
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LedgerError, match="is sealed under key-encryption key"):
        file.load_or_create(OTHER)


def test_a_changed_key_file_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "ledger-key.json"
    file = HeadKeyFile(path, os.urandom)
    file.load_or_create(KEK)
    document = json.loads(path.read_text())
    [seal] = document["seals"]
    for change in (
        {"name": "osmoda-ledger/0"},
        {"version": 2},
        {"seals": []},
        {"seals": [seal | {"ciphertext": "00" * 48}]},
        {"seals": [seal | {"nonce": ""}]},
    ):
        path.write_text(json.dumps(document | change))
        with pytest.raises(LedgerError):
            file.load_or_create(KEK)


def test_while_the_key_encryption_key_changes_both_open_it(tmp_path: Path) -> None:
    file = HeadKeyFile(tmp_path / "ledger-key.json", os.urandom)
    made = file.load_or_create(KEK)
    file.add_seal(KEK, OTHER)
    file.add_seal(KEK, OTHER)  # a second time after a crash
    assert file.load_or_create(KEK).key == file.load_or_create(OTHER).key == made.key
    file.drop_older_seals(KEK)  # what is newer stays
    assert file.load_or_create(OTHER).key == made.key
    file.drop_older_seals(OTHER)
    assert file.load_or_create(OTHER).key == made.key
    with pytest.raises(LedgerError, match="is sealed under key-encryption key"):
        file.load_or_create(KEK)


def test_the_key_does_not_show_itself(tmp_path: Path) -> None:
    path = tmp_path / "ledger-key.json"
    made = HeadKeyFile(path, lambda size: bytes([7]) * size).load_or_create(KEK)
    assert (bytes([7]) * 32).hex() not in repr(made) + path.read_text()
