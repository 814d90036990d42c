"""The identity of a request: what keyd compares to tell a repeat from a new purchase."""

from __future__ import annotations

import hashlib


def fingerprint(method: str, url: str, body: bytes) -> str:
    """SHA-256 (hex) over method, full URL with query, and body bytes.

    Each part is preceded by its length, so that no two requests share an encoding: without lengths, a byte
    could move from the URL into the body and a different purchase would pass for a repeat.
    """
    digest = hashlib.sha256(b"osmoda-x402/request-fingerprint/v1\n")
    for part in (method.encode(), url.encode("utf-8", "surrogateescape"), body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
