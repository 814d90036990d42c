"""keyd's endpoints on the Unix socket: who asks, is the question well-formed, what is the answer.

Every endpoint and its roles stand in `keyd.api.ENDPOINTS`; the first thing that happens to a request is that
its kernel credentials are held against them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Final

import structlog
from aiohttp import web

from keyd import api
from keyd.admin import Admin
from keyd.api import Endpoint
from keyd.floods import Flood
from keyd.http import Handlers, Refused, peer_of_request, refusal, respond
from keyd.peer import Peer, Roles
from keyd.reasons import Reason
from keyd.routes.ledger import LedgerRoutes
from keyd.routes.payments import PaymentRoutes
from keyd.routes.policy import PolicyRoutes
from keyd.routes.sessions import SessionRoutes
from keyd.routes.wallets import WalletRoutes
from keyd.service import Service
from keyd.sessions import Sessions
from keyd.views import Views
from ledger.errors import LedgerError

STRANGERS_PER_MINUTE: Final = 1
"""Entries about one user without the right role: enough to see an attempt, too few to fill a disk with."""

log = structlog.get_logger("keyd.server")


class Server:
    """The aiohttp application around a `Service`."""

    def __init__(
        self,
        service: Service,
        admin: Admin,
        roles: Roles,
        clock: Callable[[], int],
    ) -> None:
        self.service = service
        self.admin = admin
        self.sessions = Sessions(service.ledger, service.entropy)
        self.views = Views(service.ledger, service.policies)
        self._roles = roles
        self._clock = clock
        self._strangers = Flood(STRANGERS_PER_MINUTE)
        self.app = web.Application(client_max_size=api.MAX_BODY, middlewares=[self._answer])
        handlers = self._handlers()
        for name, endpoint in api.ENDPOINTS.items():
            self.app.router.add_route(endpoint.method, endpoint.path, handlers[name], name=name)

    def _handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "health": self._health,
            **PaymentRoutes(self.service, self.views, self._clock).handlers(),
            **PolicyRoutes(self.service, self.admin, self.views, self._roles, self._clock).handlers(),
            **SessionRoutes(self.service, self.sessions, self._roles, self._clock).handlers(),
            **WalletRoutes(self.service, self._clock).handlers(),
            **LedgerRoutes(self.service.ledger).handlers(),
        }

    # -- every request ------------------------------------------------------------------------------------

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        peer = peer_of_request(request)
        status = 200
        try:
            await self._check_role(request, peer)
            return await handler(request)
        except Refused as refused:
            status = refused.status
            return refusal(refused)
        except LedgerError as error:
            status = 503
            return refusal(Refused(Reason.LEDGER_UNAVAILABLE, str(error), status))
        except web.HTTPException as error:  # 404, 405, 413
            status = error.status
            return refusal(Refused(Reason.REQUEST_MALFORMED, error.reason or "", status))
        except Exception:
            status = 500
            log.exception("keyd.fault", path=request.path)
            return refusal(Refused(Reason.INTERNAL, "an unexpected fault; nothing was signed", status))
        finally:
            if request.method != "GET" or status != 200:  # egress asks for the policy every few seconds
                log.info(
                    "keyd.request", method=request.method, path=request.path, status=status, uid=peer.uid
                )

    async def _check_role(self, request: web.Request, peer: Peer) -> None:
        roles = self._roles.of(peer)
        endpoint = _endpoint_of(request)
        if endpoint is not None and roles & endpoint.roles:
            return
        what = f"{request.method} {request.path[:100]}"
        if roles and endpoint is None:
            raise Refused(Reason.REQUEST_MALFORMED, f"there is no {what}", 404)
        if (suppressed := self._strangers.note(str(peer), self._clock())) is not None:
            await self.service.record_stranger(peer, what, suppressed)
        if not roles or endpoint is None:
            raise Refused(Reason.PEER_UNKNOWN, f"uid {peer.uid} has no role")
        needed = " or ".join(sorted(endpoint.roles))
        raise Refused(Reason.ROLE_INSUFFICIENT, f"uid {peer.uid} is not {needed}, which {what} needs")

    async def _health(self, request: web.Request) -> web.Response:
        problems = self.service.problems()
        return respond(
            api.Health(
                status="degraded" if problems else "ok",
                api_version=api.API_VERSION,
                version=version("osmoda-x402"),
                ledger_entries=self.service.ledger.head().seq,
                problems=problems,
                roles=sorted(self._roles.of(peer_of_request(request))),
            )
        )


def _endpoint_of(request: web.Request) -> Endpoint | None:
    route = request.match_info.route
    return None if route.name is None else api.ENDPOINTS[route.name]
