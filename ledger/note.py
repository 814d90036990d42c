"""Signed heads as text: C2SP signed notes (c2sp.org/signed-note) in the form of checkpoints
(c2sp.org/tlog-checkpoint): origin, size, hash. Pure.

    osmoda-ledger/3f0c9a5b7d2e4c61
    1042
    y1i8wwWIyjr5pa3Q2DjbmBhSXhZ8Z7NbYxZmVBwoVpA=

    — osmoda-ledger/3f0c9a5b7d2e4c61 Kk3...=

The hash is that of entry `size`, hence of a chain: unlike a checkpoint of a Merkle tree it proves nothing about a
single entry without the others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final, NamedTuple

from ledger import ed25519
from ledger.chain import Head
from ledger.errors import NoteRefused

_ED25519: Final = b"\x01"  # signature type of signed-note
_KEY_HINT: Final = "Give it as `osmoda-keyctl ledger key` prints it."
_DASH: Final = "— "
_SIGNATURE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class Key(NamedTuple):
    """A public key that signs notes."""

    name: str
    public: bytes
    """32 bytes, Ed25519."""

    @property
    def id(self) -> bytes:
        """4 bytes, to tell keys apart; not a proof of anything."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        """The verifier key ("vkey"): name+id+key, for whoever checks signatures."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key of a vkey. Raises NoteRefused."""
        name, _, rest = text.strip().partition("+")
        id_, _, encoded = rest.partition("+")
        content = _decoded(encoded)
        if content is None or len(content) != 33 or content[:1] != _ED25519 or not name:
            raise NoteRefused("not a verifier key (name+id+key) of Ed25519", _KEY_HINT)
        key = cls(name, content[1:])
        if key.id.hex() != id_:
            raise NoteRefused(
                f"the verifier key of {name} is damaged: its id is not that of its key", _KEY_HINT
            )
        return key


class Checkpoint(NamedTuple):
    """What a head says: the ledger `origin` had `size` entries, and the hash of the last was `hash`."""

    origin: str
    size: int
    hash: bytes

    @property
    def head(self) -> Head:
        return Head(self.size, self.hash)

    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.hash).decode()}\n"


def signed(checkpoint: Checkpoint, key: Key, signature: bytes) -> str:
    """The note of `checkpoint` with `signature` (64 bytes) over its text."""
    line = base64.b64encode(key.id + signature).decode()
    return f"{checkpoint.text()}\n{_DASH}{key.name} {line}\n"


def read(note: str, key: Key | None = None) -> Checkpoint:
    """The checkpoint in `note`. With a `key`, its signature must be there and good; without, none is checked.

    Raises NoteRefused.
    """
    text, blank, signatures = note.rpartition("\n\n")
    text += "\n"
    if not blank or any(char < " " and char != "\n" for char in note):
        raise NoteRefused("not a signed note: text, an empty line, and signatures")
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0] or _SIZE.fullmatch(lines[1]) is None:
        raise NoteRefused("not a checkpoint: origin, size and hash, a line each")
    hash_ = _decoded(lines[2])
    if hash_ is None or len(hash_) != 32:
        raise NoteRefused("the hash of the checkpoint is not 32 bytes in base64")
    if key is not None:
        _check_signature(text, signatures, key)
    return Checkpoint(lines[0], int(lines[1]), hash_)


def whole_lines(content: bytes) -> str:
    """The text of `content` up to its last line end: what a crash left after that may end within a character.

    Raises UnicodeDecodeError.
    """
    return content[: content.rfind(b"\n") + 1].decode()


def split(text: str) -> tuple[list[str], str]:
    """The notes of a file of them, each followed by an empty line, and what is left over.

    A note that was being written when the machine died is left over.
    """
    notes: list[str] = []
    lines: list[str] = []
    signatures = False
    for line in text.splitlines(keepends=True):
        if signatures and not line.startswith(_DASH):  # the line after the last signature
            notes.append("".join(lines))
            lines, signatures = [], False
            if line == "\n":
                continue
        lines.append(line)
        signatures = line.startswith(_DASH) and line.endswith("\n")
    if signatures:
        notes.append("".join(lines))
        lines = []
    return notes, "".join(lines)


def _check_signature(text: str, signatures: str, key: Key) -> None:
    """Signatures of other keys are ignored, as signed-note says; ours must be good."""
    for line in signatures.splitlines():
        match = _SIGNATURE.fullmatch(line)
        content = _decoded(match[2]) if match else None
        if match is None or content is None:
            raise NoteRefused("a line below the empty one is not a signature")
        if match[1] == key.name and content[:4] == key.id:
            if ed25519.verify(key.public, text.encode(), content[4:]):
                return
            raise NoteRefused(f"the signature of {key.name} is not good: the head was changed, or is not its")
    raise NoteRefused(f"there is no signature of {key.name} (key id {key.id.hex()})")


def _decoded(text: str) -> bytes | None:
    """The bytes of strict base64 (RFC 4648, section 4); None if it is none."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if base64.b64encode(content).decode() == text else None
