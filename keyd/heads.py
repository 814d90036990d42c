"""Signed heads of the ledger: when they are made, where they are kept, and the check at start that they still hold.

A head in the file beside the ledger shows accidents: a ledger that was restored from an older copy, or comes from
another machine. Against somebody who may write both it takes a head that was carried away: from the journal, or
pushed by the reconciler.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from keyd.custody.headkey import HeadKey
from keyd.files import sync_directory
from ledger import note
from ledger.chain import GENESIS, Head
from ledger.errors import LedgerError, LedgerUnavailable, NoteRefused
from ledger.log import Ledger
from ledger.note import Checkpoint
from ledger.transaction import Transaction

EVERY_ENTRIES: Final = 1000
"""Entries after which a head is due: some hundreds of payments, so a rewriting is narrowed down to those."""
EVERY_S: Final = 600.0
"""Seconds after which one is due, if there are new entries: what an attacker has to be quicker than."""
LOOK_EVERY_S: Final = 10.0
"""Between two looks at the ledger: reading its head takes microseconds."""

LOOKED_THROUGH: Final = 50_000
"""Newest entries among which a head is looked for; there is no index of them, and one is usually the last of all."""

_NEWEST_KEY: Final = (
    "SELECT json_extract(entry, '$.data.key') FROM entries WHERE seq > (SELECT head_seq FROM meta) - ?"
    " AND json_extract(entry, '$.type') = ? ORDER BY seq DESC LIMIT 1"
)

_log = structlog.get_logger("keyd.heads")


class Heads:
    """The signed heads of one ledger, in an append-only file of notes."""

    def __init__(self, ledger: Ledger, key: HeadKey, file: Path, *, key_is_new: bool = False) -> None:
        """Raises LedgerError if the newest head in `file` is not one of this ledger, or if there is none and the heads of
        this ledger are signed by another key; unless `key` was made just now, for one that was lost."""
        self._ledger = ledger
        self._key = key
        self._file = file
        self._signing = asyncio.Lock()
        self.newest: str | None = _newest(file)
        self._head = Head(0, GENESIS) if self.newest is None else self._check(self.newest)
        self.succeeds_another = self.newest is None and self._is_of_another()
        """The key is new to this ledger: a head is due at once, or the next start would not know that it belongs here."""
        if self.succeeds_another and not key_is_new:
            raise LedgerError(
                f"{ledger.path} is of another keyd: its newest head was signed by another key",
                f"put the right ledger back, or {file} beside its own; if it is the right one, move the key that signs "
                "heads away (ledger_key.json of state_dir), and keyd makes another",
            )

    @property
    def key(self) -> note.Key:
        """Who checks heads needs this."""
        return self._key.key

    async def sign(self) -> str:
        """A signed head of everything up to now; the newest one again if nothing was appended since.

        Its own entry, `ledger.checkpoint`, is the last that it covers. Raises LedgerError.
        """
        async with self._signing:  # two at a time could write their notes in the wrong order
            head = await asyncio.wrap_future(self._ledger.transact(self._record))
            if self.newest is not None and head == self._head:
                return self.newest
            signed = self._key.sign(Checkpoint(self.key.name, head.seq, head.hash))
            await asyncio.to_thread(_append, self._file, signed)
            self.newest, self._head = signed, head
            _log.info("ledger.checkpoint", note=signed)  # the journal is out of reach of keyd's user
            return signed

    async def keep_signing(self, clock: Callable[[], float]) -> None:
        """Signs whenever it is due; runs until it is cancelled. `clock` in monotonic seconds."""
        signed_at = clock()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                new = self._ledger.head().seq - self._head.seq
            except LedgerError:  # keyd refuses payments meanwhile, and says why
                continue
            if new >= EVERY_ENTRIES or (new and clock() - signed_at >= EVERY_S):
                await self.sign_if_possible()
                signed_at = clock()

    async def sign_if_possible(self) -> None:
        """Signs, or says in the journal why not: neither payments nor stopping wait for a head."""
        try:
            await self.sign()
        except LedgerError as error:
            _log.warning("ledger.checkpoint.failed", error=str(error), hint=error.hint)

    def _is_of_another(self) -> bool:
        signed = self._ledger.read(
            lambda db: db.execute(_NEWEST_KEY, (LOOKED_THROUGH, "ledger.checkpoint")).fetchone()
        )
        return signed is not None and signed[0] != str(self.key)

    def _record(self, tx: Transaction) -> Head:
        if tx.head != self._head:
            tx.append("ledger.checkpoint", "keyd", {"key": str(self.key)})
        return tx.head

    def _check(self, newest: str) -> Head:
        """Signing two histories would make every head worthless; going on with an older ledger, its budget too."""
        try:
            head = note.read(newest, self.key).head
        except NoteRefused as error:
            raise LedgerError(
                f"the newest head in {self._file} is not of this keyd: {error}",
                f"see where {self._file} comes from; move it away to go on without it",
            ) from error
        if head.seq == 0:
            return head
        hash_ = self._ledger.read(
            lambda db: db.execute("SELECT hash FROM entries WHERE seq = ?", (head.seq,)).fetchone()
        )
        if hash_ == (head.hash,):
            return head
        found = self._ledger.head().seq
        what = (
            f"has {found} entries, but keyd signed a head of {head.seq}: it is an older copy, or its end was cut off"
            if found < head.seq
            else f"has another entry {head.seq} than the one keyd signed: it is another ledger, or was rewritten"
        )
        raise LedgerError(
            f"{self._ledger.path} {what}",
            f"put the right ledger back; to accept the loss of what it lacks, move {self._file} away",
        )


def _newest(file: Path) -> str | None:
    """The last whole note of `file`; what a crash left half written after it is taken away."""
    try:
        content = file.read_bytes()
        lines = note.whole_lines(content)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise LedgerError(f"{file} is damaged", "move it away for examination") from error
    notes, torn = note.split(lines)
    whole = len(lines.encode()) - len(torn.encode())
    if whole < len(content):
        with file.open("rb+") as opened:
            opened.truncate(whole)
            os.fsync(opened.fileno())
    return notes[-1] if notes else None


def _append(file: Path, signed: str) -> None:
    """Adds a note durably, or leaves the file as it was. Raises LedgerUnavailable."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(file, flags, 0o600), "ab", buffering=0) as opened:
            before = opened.seek(0, os.SEEK_END)
            try:
                rest = f"{signed}\n".encode()
                while rest:  # a full disk takes a part first, and fails with the next
                    rest = rest[opened.write(rest) :]
                os.fsync(opened.fileno())
            except OSError:
                opened.truncate(before)
                raise
        if before == 0:
            sync_directory(file.parent)
    except OSError as error:
        raise LedgerUnavailable(
            f"the head could not be written to {file}: {error.strerror}", "Free disk space or mend the disk."
        ) from error
