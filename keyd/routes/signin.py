"""The endpoint of signing in instead of paying."""

from __future__ import annotations

from keyd import api
from keyd.core.policy import Deny
from keyd.http.messages import Handlers, Refused, Request, Response, parse, respond
from keyd.signins import SignIns


class SignInRoutes:
    def __init__(self, sign_ins: SignIns) -> None:
        self._sign_ins = sign_ins

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {"signin": self.sign_in}

    async def sign_in(self, request: Request) -> Response:
        reply = await self._sign_ins.sign_in(request.peer, await parse(request, api.SignInRequest))
        if isinstance(reply, Deny):
            raise Refused(reply.reason, reply.detail)
        return respond(reply)
