"""What every message is made of: the roles of peers, the types of fields, how keyd says no."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

API_VERSION: Final = 1
MAX_BODY: Final = 512 * 1024
"""Bytes of one request body. Sixteen offers of 16 KiB fit; anything larger is not a payment request."""
MAX_OFFERS: Final = 16
"""Offers looked at in one 402. The most seen in the field is eight; the rest are ignored, not refused."""
DEFAULT_SOCKET: Final = "/run/osmoda/keyd.sock"
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""Wallet label; doubles as a file name, so no slash, no leading dot, lower case."""
CallerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
"""Name of a caller with a proxy token. Without a colon, which ends the user name in Basic (RFC 7617)."""
Text = Annotated[str, StringConstraints(max_length=2048)]
DomainText = Annotated[str, StringConstraints(max_length=300)]
"""An entry of `allowed_domains`; a DNS name has at most 253 characters."""
Usd = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$")]


class Role(StrEnum):
    """What a peer may do; keyd maps kernel credentials (SO_PEERCRED) to roles in its configuration."""

    EGRESS = "egress"
    ADMIN = "admin"
    AGENT = "agent"
    RECONCILER = "reconciler"


class Message(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,  # an answer of another version would end in a log with its signature, otherwise
        cache_strings="keys",  # pydantic would keep every short value for the next message, passphrases as well
    )


class Refusal(Message):
    """403 (or 4xx/5xx): what was refused, why, and the way out. `code` is from `keyd.reasons`."""

    code: str
    detail: str
    hint: str


LEDGER_WRITE_FAILED: Final = "the last write to the ledger failed"
"""How that one of the problems begins; the rest of it is the disk's own words."""


class Health(Message):
    status: Literal["ok", "degraded"]
    api_version: int
    version: str
    ledger_entries: int
    problems: list[str]
    """Why no payment can be made now: no wallet, ledger not writable, x402 disabled."""
    roles: list[Role] = []
    """The roles of whoever asks."""
