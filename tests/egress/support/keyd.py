"""A keyd that answers by script, on a real Unix socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args, get_origin

from aiohttp import web
from pydantic import BaseModel

from keyd import api

SIGNATURE = "0x" + "5e" * 65
type SignScript = Callable[[api.SignRequest], Awaitable[api.SignReply | web.Response]]


def reply_to(request: api.SignRequest, number: int = 1, accepted: int = 0) -> api.SignReply:
    authorization = api.Authorization(
        from_="0x" + "11" * 20,
        to="0x" + "22" * 20,
        value="1000",
        valid_after="0",
        valid_before="1700000600",
        nonce="0x" + f"{number:064x}",
    )
    return api.SignReply(
        payment_id=f"{number:032x}",
        accepted=accepted,
        payload=api.ExactPayload(signature=SIGNATURE, authorization=authorization),
        valid_before=1700000600,
        wallet_address="0x" + "11" * 20,
        signature=SIGNATURE,
        signed_at=1700000000,
        repeat=False,
        amount="0.001",
        amount_usd="0.001",
        asset="USDC",
        network="eip155:84532",
    )


def refusal(code: str, status: int = 403) -> web.Response:
    body = api.Refusal(code=code, detail="by script", hint="none")
    return web.Response(status=status, body=body.model_dump_json().encode(), content_type="application/json")


def _least(model: type[BaseModel], **values: object) -> BaseModel:
    """An instance with `values`; all other required members have the least value of their type."""
    least: dict[type, object] = {str: "0", bool: True, int: 0, list: [], dict: {}}
    for name, member in model.model_fields.items():
        annotation: object = member.annotation
        if name in values or not member.is_required():
            continue
        if type(None) in get_args(annotation):
            values[name] = None
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            values[name] = _least(annotation)
        else:
            kind = get_origin(annotation) or annotation
            assert isinstance(kind, type)
            values[name] = least[kind]
    return model(**values)


class FakeKeyd:
    """Signs everything, one payment id after another, unless `sign` is replaced."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.requests: list[api.SignRequest] = []
        self.outcomes: asyncio.Queue[api.OutcomeReport] = asyncio.Queue()
        self.outcome_gate = asyncio.Event()
        self.outcome_gate.set()
        self.outcome_asked = asyncio.Event()
        """Set when a report has arrived, answered or not."""
        self.outcome_failures = 0
        self.allowed_domains = ["*"]
        self.prepay: list[api.PrepayView] = []
        self.policy_asked = asyncio.Event()
        self.sign: SignScript = self._sign
        self.signin_domains: list[str] = []
        self.signins: list[api.SignInRequest] = []
        self.signin_refusal: str | None = None
        """Reason code of the answer to every sign-in, if it is no."""
        self.asked = asyncio.Event()
        """Set when a sign request has arrived."""

    async def _sign(self, request: api.SignRequest) -> api.SignReply:
        return reply_to(request, len(self.requests))

    async def handle_sign(self, http_request: web.Request) -> web.Response:
        request = api.SignRequest.model_validate_json(await http_request.read())
        self.requests.append(request)
        self.asked.set()
        answer = await self.sign(request)
        if isinstance(answer, web.Response):
            return answer
        return web.Response(
            body=answer.model_dump_json(by_alias=True).encode(), content_type="application/json"
        )

    async def handle_signin(self, http_request: web.Request) -> web.Response:
        request = api.SignInRequest.model_validate_json(await http_request.read())
        self.signins.append(request)
        if self.signin_refusal is not None:
            return refusal(self.signin_refusal)
        members = {name: request.info[name] for name in ("domain", "uri", "nonce", "issuedAt")}
        proof = api.SignInProof(
            address="0x" + "11" * 20,
            version="1",
            type="eip191",
            chainId=request.supported_chains[0]["chainId"],
            expirationTime="2026-11-21T12:05:00Z",
            signature=SIGNATURE,
            **members,
        )
        reply = api.SignInReply(proof=proof).model_dump_json(by_alias=True)
        return web.Response(body=reply.encode(), content_type="application/json")

    async def handle_outcome(self, http_request: web.Request) -> web.Response:
        if self.outcome_failures:
            self.outcome_failures -= 1
            assert http_request.transport is not None
            http_request.transport.abort()
        self.outcome_asked.set()
        await self.outcome_gate.wait()
        report = api.OutcomeReport.model_validate_json(await http_request.read())
        self.outcomes.put_nowait(report)
        reply = api.OutcomeReply(payment_id=report.payment_id, state="settled")
        return web.Response(body=reply.model_dump_json().encode(), content_type="application/json")

    async def handle_policy(self, _: web.Request) -> web.Response:
        self.policy_asked.set()
        view = _least(
            api.PolicyView,
            allowed_domains=self.allowed_domains,
            signin_domains=self.signin_domains,
            prepay=self.prepay,
        )
        return web.Response(body=view.model_dump_json().encode(), content_type="application/json")


@asynccontextmanager
async def fake_keyd(socket: Path | None = None) -> AsyncIterator[FakeKeyd]:
    with tempfile.TemporaryDirectory(prefix="keyd") as folder:  # short: a socket path has 107 bytes
        keyd = FakeKeyd(str(socket or Path(folder) / "keyd.sock"))
        app = web.Application()
        app.router.add_post("/x402/sign", keyd.handle_sign)
        app.router.add_post("/x402/signin", keyd.handle_signin)
        app.router.add_post("/x402/outcome", keyd.handle_outcome)
        app.router.add_get("/x402/policy", keyd.handle_policy)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, keyd.socket).start()
        try:
            yield keyd
        finally:
            await runner.cleanup()
