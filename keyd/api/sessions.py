"""Messages about sessions: a label and a budget of its own for one task of a user."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from keyd.api.base import Message, Usd

MAX_SESSION_S: Final = 7 * 24 * 3600
"""A task that runs longer than a week is a service, and a service has a user and a budget of its own."""
SESSION_USER: Final = "session"
"""User name that goes with a session's token in proxy credentials (RFC 7617); no caller of egress.toml has it."""
SessionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
SessionLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
"""What a person calls the task. Labels repeat, ids do not."""


class SessionOpen(Message):
    """`POST /x402/sessions`: the caller's user gets a session. It only ever narrows what the user may spend."""

    label: SessionLabel
    budget_usd: Usd
    expires_in: Annotated[int, Field(ge=60, le=MAX_SESSION_S)] = 24 * 3600
    """Seconds."""


class Session(Message):
    """A session that is open."""

    id: SessionId
    """The beginning of the SHA-256 of its token."""
    label: SessionLabel
    caller: str
    """Whose it is, "uid:1000". From nobody else is its token accepted."""
    budget: str
    spent: str
    expires_at: int


class SessionOpened(Message):
    """The token is told once; the ledger keeps its SHA-256 alone."""

    session: Session
    token: Annotated[str, Field(repr=False)]


class SessionList(Message):
    """`GET /x402/sessions`: the sessions that are open, of every user for an administrator, else one's own."""

    sessions: list[Session]
