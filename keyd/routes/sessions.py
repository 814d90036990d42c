"""The endpoints of sessions and quotes: what a task may spend, and what something would cost."""

from __future__ import annotations

from collections.abc import Callable

from keyd import api, quotes
from keyd.api import Role
from keyd.core.policy import Deny
from keyd.http.messages import Handlers, Refused, Request, Response, parse, respond
from keyd.peer import Roles
from keyd.reasons import Reason
from keyd.record.floods import Flood
from keyd.record.looks import Looks
from keyd.record.sessions import Sessions
from keyd.service import Service


class SessionRoutes:
    def __init__(
        self, service: Service, sessions: Sessions, looks: Looks, roles: Roles, clock: Callable[[], int]
    ) -> None:
        self._service = service
        self._sessions = sessions
        self._looks = looks
        self._roles = roles
        self._clock = clock
        self._quotes = Flood(quotes.QUOTES_PER_MINUTE)

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "quote": self.quote,
            "session_open": self.open,
            "session_list": self.list,
            "session_close": self.close,
        }

    async def quote(self, request: Request) -> Response:
        peer, now_us = request.peer, self._clock()
        message = await parse(request, api.QuoteRequest)
        if self._quotes.note(str(peer), now_us) is None:
            raise Refused(Reason.RATE_LIMIT, f"more than {quotes.QUOTES_PER_MINUTE} quotes in a minute")
        assets = self._service.policies.base.assets
        return respond(
            self._service.quote(quotes.intent_of(message, str(peer), assets, now_us // 1_000_000), now_us)
        )

    async def open(self, request: Request) -> Response:
        message = await parse(request, api.SessionOpen)
        opened = await self._sessions.open(request.peer, message)
        if isinstance(opened, Deny):
            raise Refused(opened.reason, opened.detail)
        return respond(opened)

    async def list(self, request: Request) -> Response:
        peer, now_s, of_anybody = request.peer, self._clock() // 1_000_000, self._is_admin(request)
        return respond(await self._looks.take(peer, self._sessions.list, peer, now_s, of_anybody=of_anybody))

    async def close(self, request: Request) -> Response:
        closed = await self._sessions.close(
            request.peer, request.match_info["id"], of_anybody=self._is_admin(request)
        )
        if isinstance(closed, Deny):
            raise Refused(closed.reason, closed.detail, 404)
        return respond(closed)

    def _is_admin(self, request: Request) -> bool:
        return Role.ADMIN in self._roles.of(request.peer)
