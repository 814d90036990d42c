"""One entry of the ledger, and its canonical bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from ledger import canonical
from ledger.errors import CanonicalError, EntryRefused

_EPOCH: Final = datetime(1970, 1, 1)  # naive: timestamp() writes the "Z"
_MEMBERS: Final = frozenset({"actor", "data", "seq", "ts", "type"})
TIMESTAMP: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


class Entry(NamedTuple):
    """A recorded fact. `seq` counts from 1 and is the only order; `ts` follows the clock, even backwards."""

    seq: int
    ts: str
    """When it was recorded: RFC 3339, UTC, always six decimals: `2026-11-21T02:00:34.123456Z`."""
    type: str
    """What happened, for example `x402.payment.signed`."""
    actor: str
    """Who caused it, for example `uid:1000` or `keyd`."""
    data: Mapping[str, Any]
    """The facts. Nobody may change them: they are what `hash` covers."""
    hash: bytes
    """32 bytes: SHA-256 over this entry and, through the previous hash, all entries before it."""


def timestamp(micros: int) -> str:
    """`micros` (Unix time in microseconds) as an entry's `ts`. Raises EntryRefused outside years 1 to 9999."""
    try:
        moment = _EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise EntryRefused("the clock is outside the years 1 to 9999", "Set the system clock.") from error
    return moment.isoformat(timespec="microseconds") + "Z"


def encode(seq: int, ts: str, type_: str, actor: str, data: Mapping[str, object]) -> bytes:
    """The canonical bytes of an entry, as they are hashed and stored. Raises CanonicalError."""
    return encode_and_parse(seq, ts, type_, actor, data)[0]


def encode_and_parse(
    seq: int, ts: str, type_: str, actor: str, data: Mapping[str, object]
) -> tuple[bytes, object]:
    """The same, and the members as whoever reads the entry gets them. Raises CanonicalError."""
    members = {"actor": actor, "data": dict(data), "seq": seq, "ts": ts, "type": type_}
    return canonical.encode_and_parse(members)


def decode(encoded: bytes, hash_: bytes) -> Entry:
    """The entry that `encoded` is, exactly. Raises CanonicalError if it is none."""
    return from_members(canonical.decode(encoded), hash_)


def from_members(members: object, hash_: bytes) -> Entry:
    """The entry with these members, as they are in canonical JSON. Raises CanonicalError if it is none."""
    if isinstance(members, dict) and members.keys() == _MEMBERS:
        actor, data, seq = members["actor"], members["data"], members["seq"]
        ts, type_ = members["ts"], members["type"]
        texts = type(actor) is type(ts) is type(type_) is str
        if texts and type(data) is dict and type(seq) is int and TIMESTAMP.fullmatch(ts):
            return Entry(seq, ts, type_, actor, data, hash_)
    raise CanonicalError("not an entry: it needs exactly actor, data, seq, ts and type")
