"""Somebody with access to the files tampers with the record or with a wallet."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyd import api
from ledger.errors import LedgerError
from ledger.log import Ledger
from ledger.transaction import Transaction
from tests.abuse.support.seller import OTHER_PAY_TO, PAY_TO, Seller
from tests.abuse.support.stage import Stage

NOW_US = 1_795_262_400_000_000


@pytest.fixture
async def record(stage: Stage, seller: Seller, tmp_path: Path) -> Path:
    """A copy of a real ledger with paid requests in it, and keyd and the proxy going on beside it."""
    async with stage.serving(seller) as upstream:
        for path in ("/a", "/b", "/c"):
            await stage.check_sells(seller, upstream, path)
    return copy_of(stage, tmp_path / "copy.sqlite3")


def copy_of(stage: Stage, target: Path) -> Path:
    source = f"file:{stage.payer.keyd.ledger}?mode=ro"
    with closing(sqlite3.connect(source, uri=True)) as db, closing(sqlite3.connect(target)) as copy:
        db.backup(copy)
    return target


def verify(record: Path) -> tuple[int, str]:
    """Exit code and words of `python -m ledger verify`, as somebody who has only the file would run it."""
    command = [sys.executable, "-m", "ledger", "verify", str(record)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def tamper(record: Path, *statements: str) -> None:
    with closing(sqlite3.connect(record)) as db:
        for statement in statements:
            assert db.execute(statement).rowcount > 0, statement
        db.commit()


def newest_signed(record: Path) -> int:
    """Its number in the ledger."""
    with closing(sqlite3.connect(record)) as db:
        rows = db.execute("SELECT seq, entry FROM entries ORDER BY seq DESC")
        return next(int(seq) for seq, entry in rows if json.loads(entry)["type"] == "x402.payment.signed")


EDITED = f"UPDATE entries SET entry = replace(entry, '{PAY_TO}', '{OTHER_PAY_TO}') WHERE seq = {{n}}"
DELETED = "DELETE FROM entries WHERE seq = {n}"
SWAPPED = (
    "UPDATE entries SET seq = -1 WHERE seq = {n}",
    "UPDATE entries SET seq = {n} WHERE seq = {n} - 1",
    "UPDATE entries SET seq = {n} - 1 WHERE seq = -1",
)
TAIL_CUT = "DELETE FROM entries WHERE seq >= {n}"


@pytest.mark.attack(46)
@pytest.mark.parametrize(
    ("statements", "where"),
    [
        ([EDITED], "entry {n}"),
        ([DELETED], "{n}"),
        (SWAPPED, "entry {n}"),
        ([TAIL_CUT], "head"),
        (["UPDATE spend_total SET usd_micros = 0"], "spend_total"),
        (["DELETE FROM payments"], "payments"),
    ],
    ids=["edited", "deleted", "reordered", "tail cut", "budget reset", "payments dropped"],
)
async def test_tampering_is_found_and_its_place_named(
    record: Path, stage: Stage, seller: Seller, statements: list[str], where: str
) -> None:
    assert verify(record)[0] == 0
    n = newest_signed(record)
    tamper(record, *(statement.format(n=n) for statement in statements))
    code, said = verify(record)
    assert code == 1
    assert where.format(n=n) in said
    assert "ledger not verified" in said
    assert (await stage.keyd.ledger_verify()).ok  # the real one is as good as before
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(46)
def test_keyd_does_not_go_on_with_a_ledger_whose_tail_was_cut(record: Path) -> None:
    Ledger.open(record, clock=lambda: NOW_US).close()
    tamper(record, TAIL_CUT.format(n=newest_signed(record)))
    with pytest.raises(LedgerError, match="its head names entry"):
        Ledger.open(record, clock=lambda: NOW_US)


@pytest.mark.attack(46)
async def test_a_rewritten_ledger_verifies_and_differs_from_a_head_kept_elsewhere(
    record: Path, stage: Stage, tmp_path: Path
) -> None:
    """What the chain alone cannot show: it takes a head that somebody noted before."""
    noted = verify(record)[1].splitlines()[1]  # "head: SEQ HASH"
    with closing(sqlite3.connect(record)) as db:
        entries = [json.loads(entry) for (entry,) in db.execute("SELECT entry FROM entries ORDER BY seq")]
    rewritten = tmp_path / "rewritten.sqlite3"
    ledger = Ledger.open(rewritten, clock=lambda: NOW_US)
    for entry in entries:
        data = json.loads(json.dumps(entry["data"]).replace(PAY_TO, OTHER_PAY_TO))
        ledger.transact(append(entry["type"], entry["actor"], data)).result()
    ledger.close()

    code, said = verify(rewritten)
    assert (code, said.splitlines()[0]) == (0, f"ledger verified: {len(entries)} entries")
    assert said.splitlines()[1] != noted
    head = await stage.keyd.ledger_head()
    assert noted == f"head: {head.seq} {head.hash}"  # the real one still has it


def append(type_: str, actor: str, data: dict[str, object]) -> Callable[[Transaction], object]:
    return lambda tx: tx.append(type_, actor, data)


def _journal(stage: Stage) -> Path:
    return stage.payer.keyd.ledger.with_name("ledger.sqlite3-wal")


def empty_journal(stage: Stage) -> None:
    """SQLite begins a long write-ahead log anew, within the file as it is: from here on, for a while, it grows instead."""
    with closing(sqlite3.connect(stage.payer.keyd.ledger, timeout=60)) as db:
        [(busy, *_)] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert (busy, _journal(stage).stat().st_size) == (0, 0)


@contextmanager
def full_disk(stage: Stage) -> Iterator[None]:
    """No file of keyd may grow any more: writes fail as they do on a full disk."""
    pid = stage.payer.keyd.program.pid
    journal = _journal(stage)
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (journal.stat().st_size, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.attack(47)
async def test_a_full_disk_means_no_signature(stage: Stage, seller: Seller) -> None:
    """Nothing can be recorded then, so not even the refusal is: the program sees it, and keyd's log."""
    async with stage.serving(seller) as upstream:
        empty_journal(stage)
        await stage.check_sells(seller, upstream)
        seller.forget()
        before = stage.entries(upstream, "x402.payment.attempt")
        with full_disk(stage):
            for path in ("/a", "/b"):
                answer = await stage.get(upstream, path)
                why = "rejected; reason=ledger_unavailable"
                assert (answer.status, answer.get("X-402-Egress")) == (402, why)
        assert seller.payments == []
        assert stage.entries(upstream, "x402.payment.attempt") == before
        await stage.check_sells(seller, upstream, "/b")
    assert verify(stage.payer.keyd.ledger)[0] == 0


type Document = dict[str, Any]


def swap(_: Document, other: Document) -> Document:
    return other


def swap_and_relabel(_: Document, other: Document) -> Document:
    return other | {"label": "default"}


def swap_the_key_alone(own: Document, other: Document) -> Document:
    return own | {"seals": other["seals"]}


def change_the_address(own: Document, other: Document) -> Document:
    return own | {"address": other["address"]}


def change_the_version(own: Document, _: Document) -> Document:
    return own | {"version": "0"}


def flip_a_bit_of_the_key(own: Document, _: Document) -> Document:
    (seal,) = own["seals"]
    sealed = bytearray.fromhex(seal["ciphertext"])
    sealed[0] ^= 1
    return own | {"seals": [seal | {"ciphertext": sealed.hex()}]}


@pytest.mark.attack(48)
@pytest.mark.parametrize(
    "change",
    [
        swap,
        swap_and_relabel,
        swap_the_key_alone,
        change_the_address,
        change_the_version,
        flip_a_bit_of_the_key,
    ],
)
async def test_a_swapped_or_changed_wallet_does_not_open(
    stage: Stage, seller: Seller, change: Callable[[Document, Document], Document]
) -> None:
    label = f"other-{change.__name__.replace('_', '-')}"
    await stage.keyd.wallet_create(api.WalletCreate(label=label))
    wallets = stage.payer.keyd.state / "wallets"
    own, other = ((wallets / f"{name}.json").read_bytes() for name in ("default", label))
    async with stage.serving(seller) as upstream:
        try:
            (wallets / "default.json").write_text(json.dumps(change(json.loads(own), json.loads(other))))
            stage.check_refused(await stage.get(upstream), upstream, "wallet_unreadable")
            assert seller.payments == []
        finally:
            (wallets / "default.json").write_bytes(own)
        await stage.check_sells(seller, upstream)
