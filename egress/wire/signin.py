"""x402's `sign-in-with-x` over HTTP: the challenge in a 402, the proof in a request header. Pure.

Source: x402 specs/extensions/sign-in-with-x.md. keyd judges the challenge and writes what is signed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from egress.wire import extensions
from egress.wire.x402 import Header
from keyd import api

SIGN_IN_WITH_X: Final = "sign-in-with-x"
HEADER: Final = "SIGN-IN-WITH-X"
MAX_INFO: Final = 16 * 1024
"""Bytes of a challenge as JSON. Real ones take half a KB; keyd need not read a book to refuse it."""


@dataclass(frozen=True, slots=True)
class SignInChallenge:
    """As received, and not judged."""

    info: dict[str, Any]
    supported_chains: list[Any]


def challenge(offered: Mapping[str, Any] | None) -> SignInChallenge | None:
    """The challenge in the extensions of a 402; None if there is none that has a form."""
    entry = None if offered is None else offered.get(SIGN_IN_WITH_X)
    if not isinstance(entry, dict):
        return None
    info, chains = entry.get("info"), entry.get("supportedChains")
    if not isinstance(info, dict) or not isinstance(chains, list) or not chains:
        return None
    chains = chains[: api.MAX_CHAINS]
    if extensions.size({"info": info, "chains": chains}) > MAX_INFO:
        return None
    return SignInChallenge(info, chains)


def header(proof: api.SignInProof) -> Header:
    """What lets the request in."""
    value = extensions.encode(proof.model_dump(by_alias=True, exclude_none=True))
    return Header(HEADER, base64.b64encode(value).decode())
