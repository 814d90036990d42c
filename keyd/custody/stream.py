"""A stream encrypted under a passphrase, in chunks of bounded size: what a backup is.

    osmoda-backup/v1 {"chunk": 65536, "kdf": "scrypt", "n": 131072, "p": 1, "r": 8, "salt": "…"} LF
    chunk, chunk, …

Each chunk is AES-256-GCM of 65536 bytes, of the last one what is left, with the first line as associated data. Its nonce is the number
of the chunk (11 bytes, big-endian), and 1 for the last chunk, 0 for the others: a stream that was cut off, reordered or spliced
does not open (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizár 2015, as in age).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyd.custody import scrypt

_MAGIC: Final = b"osmoda-backup/v1 "
_CHUNK: Final = 64 * 1024
_TAG: Final = 16
_MAX_HEADER: Final = 1024


class StreamError(Exception):
    """It is not such a stream, it was changed or cut off, or the passphrase is another one."""


class SealingWriter:
    """A file to write to; `close` writes the last chunk, without which the stream does not open."""

    def __init__(self, target: BinaryIO, passphrase: str, entropy: Callable[[int], bytes]) -> None:
        salt = entropy(scrypt.SALT_BYTES)
        parameters = {"n": scrypt.N, "r": scrypt.R, "p": scrypt.P, "salt": salt.hex()}
        header = {"chunk": _CHUNK, "kdf": "scrypt"} | parameters
        self._header = _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n"
        # A new salt gives each stream a key of its own, so nonces may count.
        self._cipher = AESGCM(scrypt.derive(passphrase, salt, n=scrypt.N))
        self._target = target
        self._buffer = bytearray()
        self._number = 0
        target.write(self._header)

    def write(self, data: bytes) -> int:
        self._buffer += data
        while len(self._buffer) > _CHUNK:  # not >=: what may be the last chunk waits
            self._put(bytes(self._buffer[:_CHUNK]), last=False)
            del self._buffer[:_CHUNK]
        return len(data)

    def close(self) -> None:
        self._put(bytes(self._buffer), last=True)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._header))
        self._number += 1


class OpeningReader:
    """A file to read from. Raises StreamError; what was read before may be of a stream that was cut off later."""

    def __init__(self, source: BinaryIO, passphrase: str) -> None:
        self._source = source
        self._header = source.readline(_MAX_HEADER)
        self._cipher = AESGCM(_key(self._header, passphrase))
        self._ahead = source.read(_CHUNK + _TAG)
        self._buffer = bytearray()
        self._number = 0
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        while not self._ended and (size < 0 or len(self._buffer) < size):
            self._take()
        size = len(self._buffer) if size < 0 else size
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _take(self) -> None:
        sealed, self._ahead = self._ahead, self._source.read(_CHUNK + _TAG)
        self._ended = not self._ahead
        try:
            self._buffer += self._cipher.decrypt(_nonce(self._number, last=self._ended), sealed, self._header)
        except InvalidTag:
            if self._number == 0:
                raise StreamError("the passphrase does not open it, or its beginning was changed") from None
            raise StreamError("it was changed or cut off") from None
        self._number += 1


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _key(header: bytes, passphrase: str) -> bytes:
    if not header.startswith(_MAGIC):
        raise StreamError("it is not a backup of osmoda-x402")
    try:
        found = json.loads(header[len(_MAGIC) :])
        if (found["kdf"], found["chunk"], found["r"], found["p"]) != ("scrypt", _CHUNK, scrypt.R, scrypt.P):
            raise StreamError("it was made by another version of osmoda-x402")
        return scrypt.derive(passphrase, bytes.fromhex(found["salt"]), n=int(found["n"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StreamError("its first line is damaged") from None
