"""scrypt (RFC 7914): a key from a passphrase, slow and large on purpose."""

from __future__ import annotations

import hashlib
from typing import Final

N: Final = 2**17
"""OWASP's first choice for scrypt: 128 MiB and 0.7 s for each guess. Twice that would be half of keyd's MemoryMax."""
R: Final = 8
P: Final = 1
MAX_N: Final = 2**20
"""A file that asks for more would take over a gigabyte before its passphrase could be found wrong."""
SALT_BYTES: Final = 32
MIN_PASSPHRASE: Final = 12
"""Characters. What it protects may be copied away and guessed at without limit."""


def derive(passphrase: str, salt: bytes, *, n: int) -> bytes:
    """32 bytes. From the standard library, as that lets other threads run meanwhile. Raises ValueError."""
    if not 2 <= n <= MAX_N:
        raise ValueError("scrypt: n is out of bounds")
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, n=n, r=R, p=P, dklen=32, maxmem=128 * R * (n + P + 2)
    )
