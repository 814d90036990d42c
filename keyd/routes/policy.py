"""The endpoints of policy: what is in force, and what changes it."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from keyd import api
from keyd.admin import Admin
from keyd.core.policy import Deny
from keyd.http.messages import Handlers, Refused, Request, Response, parse, respond
from keyd.peer import Roles
from keyd.reasons import Reason
from keyd.service import Service
from keyd.views import Views


class PolicyRoutes:
    def __init__(
        self, service: Service, admin: Admin, views: Views, roles: Roles, clock: Callable[[], int]
    ) -> None:
        self._service = service
        self._admin = admin
        self._views = views
        self._roles = roles
        self._clock = clock

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "policy": self.policy,
            "policy_change": self.policy_change,
            "policy_reset": self.policy_reset,
            "approve": self.approve,
            "reject": self.reject,
            "freeze": self.freeze,
            "unfreeze": self.unfreeze,
        }

    async def policy(self, request: Request) -> Response:
        label, address = self._service.custody.default()
        return respond(self._views.policy(self._clock(), wallet=address, default_wallet=label))

    async def policy_change(self, request: Request) -> Response:
        peer = request.peer
        patch = await parse(request, api.PolicyPatch)
        return _answer_or_refuse(await self._admin.change(peer, self._acting(request), patch))

    def _acting(self, request: Request) -> frozenset[api.Role]:
        """The peer's roles, or less: whoever speaks for an agent can say so (`?as=agent`)."""
        acting = request.query.get("as")
        if acting not in (None, api.Role.AGENT):
            raise Refused(Reason.REQUEST_MALFORMED, "as is `agent`, or left out", 400)
        return self._roles.of(request.peer) if acting is None else frozenset({api.Role.AGENT})

    async def policy_reset(self, request: Request) -> Response:
        message = await parse(request, api.PolicyReset)
        return respond(await self._admin.reset(request.peer, message.domain))

    async def approve(self, request: Request) -> Response:
        decided = await self._admin.decide(request.peer, request.match_info["id"], approve=True)
        return _answer_or_refuse(decided)

    async def reject(self, request: Request) -> Response:
        decided = await self._admin.decide(request.peer, request.match_info["id"], approve=False)
        return _answer_or_refuse(decided)

    async def freeze(self, request: Request) -> Response:
        message = await parse(request, api.Freeze)
        await self._admin.freeze(request.peer, message.reason)
        return respond(self._views.frozen())

    async def unfreeze(self, request: Request) -> Response:
        await self._admin.unfreeze(request.peer)
        return respond(self._views.frozen())


def _answer_or_refuse(result: BaseModel | Deny) -> Response:
    if isinstance(result, Deny):
        status = {Reason.REQUEST_MALFORMED: 400, Reason.PROPOSAL_UNKNOWN: 404}.get(result.reason, 403)
        raise Refused(result.reason, result.detail, status)
    return respond(result)
