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

from keyd import headkey, heads
from keyd.headkey import HeadKey
from keyd.heads import Heads
from keyd.secret import Secret
from ledger import kept, note
from ledger.errors import LedgerError, LedgerUnavailable
from ledger.log import Ledger
from ledger.verify import verify

KEK = Secret(bytes(32))
KEY = HeadKey(Secret(bytes(range(32))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.heads"


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[..., Ledger]:
    def make(*names: str, at: Path = tmp_path / "ledger.sqlite3") -> Ledger:
        ledger = Ledger.open(at, clock=lambda: 1_795_226_434_000_000)
        for name in names:
            ledger.transact(lambda tx, name=name: tx.append(name, "test", {})).result(20)
        return ledger

    return make


def notes(file: Path) -> list[str]:
    found, torn = note.split(file.read_text())
    assert torn == ""
    return found


async def test_a_head_covers_everything_and_its_own_entry(ledger: Callable[..., Ledger], file: Path) -> None:
    with closing(ledger("a", "b")) as record:
        signed = await Heads(record, KEY, file).sign()
        last = record.entries(limit=1)[0]
    assert note.read(signed, KEY.key).head == (3, last.hash)
    assert (last.type, last.data) == ("ledger.checkpoint", {"key": str(KEY.key)})
    assert notes(file) == [signed]
    assert file.stat().st_mode & 0o777 == 0o600


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
    ("entries", "seconds", "due"), [(999, 0.0, False), (1000, 0.0, True), (1, 600.0, True), (0, 9999.0, False)]
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
        await asyncio.wait_for(looked.wait(), 10)
        looked.clear()
        if entries:
            record.transact(lambda tx: [tx.append("a", "test", {}) for _ in range(entries)]).result(20)
        now[0] = seconds
        looks.release()
        await asyncio.wait_for(looked.wait(), 10)
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
    with closing(ledger()) as record, pytest.raises(LedgerError, match="older copy, or its end was cut off") as caught:
        Heads(record, KEY, file)
    assert "put the right ledger back" in caught.value.hint
    file.rename(tmp_path / "away")  # the way out that the hint names
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
        whole = file.read_bytes()
        file.write_bytes(whole + whole[:-40])
        again = Heads(record, KEY, file)
        assert again.newest == first
        assert file.read_bytes() == whole


async def test_a_head_that_cannot_be_written_is_no_head(ledger: Callable[..., Ledger], tmp_path: Path) -> None:
    with closing(ledger("a")) as record:
        signing = Heads(record, KEY, tmp_path / "missing" / "heads")
        with pytest.raises(LedgerUnavailable, match="could not be written"):
            await signing.sign()
        await signing.sign_if_possible()  # says so in the journal, and goes on
        assert signing.newest is None


# --- the key


def test_the_key_is_made_once_and_opens_with_the_same_key_encryption_key(tmp_path: Path) -> None:
    path = tmp_path / "ledger-key.json"
    made = headkey.load_or_create(path, KEK, os.urandom)
    assert headkey.load_or_create(path, KEK, os.urandom).key == made.key
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LedgerError, match="does not open"):
        headkey.load_or_create(path, Secret(bytes([1] * 32)), os.urandom)


def test_a_changed_key_file_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "ledger-key.json"
    headkey.load_or_create(path, KEK, os.urandom)
    document = json.loads(path.read_text())
    for name, value in {"name": "osmoda-ledger/0", "ciphertext": "00" * 48, "nonce": "", "version": 2}.items():
        path.write_text(json.dumps(document | {name: value}))
        with pytest.raises(LedgerError):
            headkey.load_or_create(path, KEK, os.urandom)


def test_the_key_can_be_wrapped_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger-key.json", Secret(bytes([1] * 32))
    made = headkey.load_or_create(path, KEK, os.urandom)
    path.write_bytes(headkey.rewrap(path, KEK, other, os.urandom))
    assert headkey.load_or_create(path, other, os.urandom).key == made.key


def test_the_key_does_not_show_itself(tmp_path: Path) -> None:
    made = headkey.load_or_create(tmp_path / "key", Secret(bytes(32)), lambda size: bytes([7]) * size)
    assert (bytes([7]) * 32).hex() not in repr(made) + str(vars(type(made))) + (tmp_path / "key").read_text()
