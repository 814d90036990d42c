"""What keyd's policy could pay, followed while egress runs: it decides whose TLS is intercepted.

Only a hint: whether something is paid is decided by keyd, for each payment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from keyd.api import Origin
from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable
from keyd.domains import DomainPattern, any_matches

POLL_INTERVAL_S: Final = 3.0
"""A domain that the admin has just allowed is paid after at most this long, without a restart."""

_log = structlog.get_logger("egress.policy")


class PayablePolicy:
    """keyd's `allowed_domains` as last heard; nothing before the first answer."""

    def __init__(self, keyd: KeydClient, on_contact: Callable[[bool], None] = lambda _: None) -> None:
        """`on_contact` is told when keyd begins to answer, and when it ceases to."""
        self._keyd = keyd
        self._on_contact = on_contact
        self._entries: list[str] | None = None
        self._patterns: tuple[DomainPattern, ...] = ()
        self._signin: frozenset[str] = frozenset()
        self._prepay: Mapping[tuple[str, str], int] = {}
        self._reachable: bool | None = None

    def covers(self, origin: Origin) -> bool:
        return any_matches(self._patterns, origin)

    @property
    def reachable(self) -> bool | None:
        """Whether keyd answered the last time; None before the first."""
        return self._reachable

    def may_sign_in(self, origin: Origin) -> bool:
        """Whether keyd could be asked to sign in there. It decides, each time."""
        return str(origin).removeprefix("https://") in self._signin

    def prepaid_after(self, origin: Origin, method: str) -> int | None:
        """How many 402s in a row have to ask for the same before keyd could be asked to prepay; None: it is never."""
        return self._prepay.get((str(origin).removeprefix("https://"), method))

    async def refresh(self) -> None:
        """Ask keyd once. If it does not answer, the last known list stays."""
        try:
            view = await self._keyd.policy()
        except (KeydUnreachable, KeydRefused, KeydProtocolError) as error:
            if self._reachable is not False:
                _log.warning("egress.policy.unavailable", error=str(error))
            self._note_contact(answers=False)
            return
        self._note_contact(answers=True)
        self._signin = frozenset(view.signin_domains)
        self._prepay = {
            (rule.domain, method): rule.after for rule in reversed(view.prepay) for method in rule.methods
        }
        entries = view.allowed_domains
        if entries != self._entries:
            self._entries = entries
            self._patterns = tuple(_parsed(entries))
            _log.info("egress.policy.followed", allowed_domains=entries)

    def _note_contact(self, *, answers: bool) -> None:
        if answers != self._reachable:
            self._reachable = answers
            self._on_contact(answers)

    async def follow(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            await self.refresh()


def _parsed(entries: list[str]) -> list[DomainPattern]:
    patterns = []
    for entry in entries:
        try:
            patterns.append(DomainPattern.parse(entry))
        except ValueError:  # a newer keyd may know forms that this egress does not: not intercepted, not paid
            _log.warning("egress.policy.unknown_entry", entry=entry)
    return patterns
