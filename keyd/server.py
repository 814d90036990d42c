"""keyd's endpoints on the Unix socket: who asks, is the question well-formed, what is the answer.

Every endpoint and its roles stand in `keyd.api.ENDPOINTS`; the first thing that happens to a request is that
its kernel credentials are held against them.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Final

import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from keyd import api, intent
from keyd.admin import Admin
from keyd.api import Endpoint
from keyd.floods import Flood
from keyd.keystore import WalletExists, WalletInfo, parse_private_key
from keyd.money import format_token_amount, format_usd
from keyd.peer import Peer, Roles, peer_of
from keyd.policy import Deny
from keyd.reasons import Reason
from keyd.service import Authorized, Service
from keyd.views import Views, ledger_entry
from ledger.errors import LedgerError
from ledger.verify import verify

BODY_TIMEOUT_S: Final = 10.0
"""A peer that sends its body slower than this holds a connection for nothing; real ones need milliseconds."""
STRANGERS_PER_MINUTE: Final = 1
"""Entries about one user without the right role: enough to see an attempt, too few to fill a disk with."""
MAX_ENTRIES: Final = 1000
"""Entries in one answer; a longer tail is asked for in pieces."""

_DAY: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_PEER: Final = web.RequestKey("peer", Peer)

log = structlog.get_logger("keyd.server")


class Refused(Exception):
    """An answer other than 200: a reason code, figures, and the HTTP status."""

    def __init__(self, reason: Reason, detail: str, status: int = 403) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail
        self.status = status


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
        self.views = Views(service.ledger, service.policies)
        self._roles = roles
        self._clock = clock
        self._strangers = Flood(STRANGERS_PER_MINUTE)
        self.app = web.Application(client_max_size=api.MAX_BODY, middlewares=[self._answer])
        for name, endpoint in api.ENDPOINTS.items():
            self.app.router.add_route(endpoint.method, endpoint.path, getattr(self, f"_{name}"), name=name)

    # -- every request ------------------------------------------------------------------------------------

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        peer = _peer(request)
        status = 200
        try:
            await self._check_role(request, peer)
            return await handler(request)
        except Refused as refused:
            status = refused.status
            return _refusal(refused)
        except LedgerError as error:
            status = 503
            return _refusal(Refused(Reason.LEDGER_UNAVAILABLE, str(error), status))
        except web.HTTPException as error:  # 404, 405, 413
            status = error.status
            return _refusal(Refused(Reason.REQUEST_MALFORMED, error.reason or "", status))
        except Exception:
            status = 500
            log.exception("keyd.fault", path=request.path)
            return _refusal(Refused(Reason.INTERNAL, "an unexpected fault; nothing was signed", status))
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

    # -- payments -----------------------------------------------------------------------------------------

    async def _sign(self, request: web.Request) -> web.Response:
        outcome = await self.service.authorize_payment(_peer(request), await self._intent(request))
        if isinstance(outcome, Deny):
            raise Refused(outcome.reason, outcome.detail)
        return _json(_sign_reply(outcome, self._clock() // 1_000_000))

    async def _intent(self, request: web.Request) -> intent.Intent:
        body = await _body(request)
        try:
            document = from_json(body, allow_inf_nan=False)
            if isinstance(document, dict) and "offers" not in document and "domain" in document:
                flat = api.FlatSignRequest.model_validate(document)
                assets, now_s = self.service.policies.base.assets, self._clock() // 1_000_000
                return intent.from_flat(flat, assets, now_s, caller=str(_peer(request)))
            return intent.from_request(api.SignRequest.model_validate(document))
        except ValueError as error:
            raise Refused(Reason.REQUEST_MALFORMED, _first_mistake(error), 400) from None

    async def _outcome(self, request: web.Request) -> web.Response:
        report = await _parse(request, api.OutcomeReport)
        state = await self.service.record_outcome(_peer(request), report)
        if isinstance(state, Deny):
            raise Refused(state.reason, state.detail, 404)
        return _json(api.OutcomeReply.model_validate({"payment_id": report.payment_id, "state": state}))

    async def _open_payments(self, request: web.Request) -> web.Response:
        return _json(self.views.open_payments(_number(request, "after", default=0)))

    async def _evidence(self, request: web.Request) -> web.Response:
        evidence = await _parse(request, api.ChainEvidence)
        state = await self.service.record_evidence(_peer(request), evidence)
        if isinstance(state, Deny):
            raise Refused(state.reason, state.detail, 404)
        return _json(api.OutcomeReply.model_validate({"payment_id": evidence.payment_id, "state": state}))

    async def _policy(self, request: web.Request) -> web.Response:
        label = self.service.default_wallet
        wallet = self.service.open_wallet(label)
        address = None if isinstance(wallet, Deny) else wallet.address
        return _json(self.views.policy(self._clock(), wallet=address, default_wallet=label))

    async def _health(self, request: web.Request) -> web.Response:
        problems = self.service.problems()
        return _json(
            api.Health(
                status="degraded" if problems else "ok",
                api_version=api.API_VERSION,
                version=version("osmoda-x402"),
                ledger_entries=self.service.ledger.head().seq,
                problems=problems,
            )
        )

    async def _spend(self, request: web.Request) -> web.Response:
        by = request.query.get("by", api.SpendBy.DOMAIN)
        today = self.views.today(self._clock())
        since = request.query.get("since", today)
        if by not in api.SpendBy or re.fullmatch(_DAY, since, re.ASCII) is None:
            words = f"by is one of {', '.join(api.SpendBy)}; since is a day like 2026-11-21"
            raise Refused(Reason.REQUEST_MALFORMED, words, 400)
        return _json(self.views.spend(api.SpendBy(by), since))

    async def _payments(self, request: web.Request) -> web.Response:
        state, domain = request.query.get("state"), request.query.get("domain")
        limit = _number(request, "limit", default=50)
        return _json(self.views.payments(state=state, domain=domain, limit=limit))

    async def _payment(self, request: web.Request) -> web.Response:
        payment_id = request.match_info["id"]
        story = self.views.story(payment_id)
        if story is None:
            raise Refused(Reason.PAYMENT_UNKNOWN, f"payment {payment_id[:64]!r}", 404)
        return _json(story)

    # -- changes of policy --------------------------------------------------------------------------------

    async def _policy_change(self, request: web.Request) -> web.Response:
        peer = _peer(request)
        patch = await _parse(request, api.PolicyPatch)
        return _answer_or_refuse(await self.admin.change(peer, self._roles.of(peer), patch))

    async def _policy_reset(self, request: web.Request) -> web.Response:
        message = await _parse(request, api.PolicyReset)
        return _json(await self.admin.reset(_peer(request), message.domain))

    async def _approve(self, request: web.Request) -> web.Response:
        decided = await self.admin.decide(_peer(request), request.match_info["id"], approve=True)
        return _answer_or_refuse(decided)

    async def _reject(self, request: web.Request) -> web.Response:
        decided = await self.admin.decide(_peer(request), request.match_info["id"], approve=False)
        return _answer_or_refuse(decided)

    async def _freeze(self, request: web.Request) -> web.Response:
        message = await _parse(request, api.Freeze)
        await self.admin.freeze(_peer(request), message.reason)
        return _json(self.views.frozen())

    async def _unfreeze(self, request: web.Request) -> web.Response:
        await self.admin.unfreeze(_peer(request))
        return _json(self.views.frozen())

    # -- wallets ------------------------------------------------------------------------------------------

    async def _wallet_create(self, request: web.Request) -> web.Response:
        message = await _parse(request, api.WalletCreate)
        return await self._made(
            request, "wallet.created", lambda now: self.service.wallets.create(message.label, now)
        )

    async def _wallet_import(self, request: web.Request) -> web.Response:
        message = await _parse(request, api.WalletImport)
        try:
            key = parse_private_key(message.private_key)
        except ValueError as error:
            raise Refused(Reason.REQUEST_MALFORMED, f"private_key: {error}", 400) from None
        return await self._made(
            request, "wallet.imported", lambda now: self.service.wallets.store(message.label, key, now)
        )

    async def _made(
        self, request: web.Request, event: str, make: Callable[[int], WalletInfo]
    ) -> web.Response:
        try:
            info = make(self._clock() // 1_000_000)
        except WalletExists as error:
            raise Refused(Reason.WALLET_EXISTS, f"wallet {str(error)!r}", 409) from None
        data: dict[str, object] = {"address": info.address, "label": info.label}
        await self.service.record(str(_peer(request)), event, data)
        return _json(self._wallet(info))

    async def _wallet_list(self, request: web.Request) -> web.Response:
        return _json(api.WalletList(wallets=[self._wallet(info) for info in self.service.wallets.list()]))

    def _wallet(self, info: WalletInfo) -> api.Wallet:
        return api.Wallet(
            label=info.label,
            address=info.address,
            created_at=info.created_at,
            default=info.label == self.service.default_wallet,
        )

    # -- ledger -------------------------------------------------------------------------------------------

    async def _ledger_entries(self, request: web.Request) -> web.Response:
        limit = _number(request, "limit", default=50)
        after = _number(request, "after", default=-1)
        entries = self.service.ledger.entries(
            limit=min(limit, MAX_ENTRIES), after=None if after < 0 else after
        )
        return _json(api.LedgerEntries(entries=[ledger_entry(entry) for entry in entries]))

    async def _ledger_head(self, request: web.Request) -> web.Response:
        head = self.service.ledger.head()
        return _json(api.LedgerHead(seq=head.seq, hash=head.hash.hex()))

    async def _ledger_verify(self, request: web.Request) -> web.Response:
        # In a thread: a long ledger takes seconds, and payments go on meanwhile.
        verdict = await asyncio.to_thread(verify, self.service.ledger.path)
        return _json(
            api.LedgerVerdict(
                ok=verdict.ok,
                entries=verdict.entries,
                head=verdict.head.hash.hex(),
                problems=verdict.problems,
            )
        )


def _endpoint_of(request: web.Request) -> Endpoint | None:
    route = request.match_info.route
    return None if route.name is None else api.ENDPOINTS[route.name]


def _peer(request: web.Request) -> Peer:
    peer = request.get(_PEER)
    if peer is None:
        assert request.transport is not None  # a request that is being answered has a connection
        connection: socket.socket = request.transport.get_extra_info("socket")
        peer = request[_PEER] = peer_of(connection)
    return peer


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refused(Reason.REQUEST_MALFORMED, "the body did not arrive in time", 408) from None


async def _parse[Parsed: BaseModel](request: web.Request, model: type[Parsed]) -> Parsed:
    try:
        return model.model_validate_json(await _body(request))
    except ValidationError as error:
        raise Refused(Reason.REQUEST_MALFORMED, _first_mistake(error), 400) from None


def _first_mistake(error: ValueError) -> str:
    """In words, and without the input itself: it may be a private key."""
    if not isinstance(error, ValidationError):
        return str(error)
    mistake = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in mistake['loc']) or 'body'}: {mistake['msg']}"


def _number(request: web.Request, name: str, *, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise Refused(Reason.REQUEST_MALFORMED, f"{name} is not a number of at least 0", 400)
    return int(text)


def _sign_reply(authorized: Authorized, now_s: int) -> api.SignReply:
    payment = authorized.payment
    offer, authorization = payment.offer, payment.authorization
    payload = api.ExactPayload(
        signature=authorized.signature,
        authorization=api.Authorization.model_validate(authorization.as_json()),
    )
    return api.SignReply(
        payment_id=payment.payment_id,
        accepted=offer.index,
        payload=payload,
        valid_before=authorization.valid_before,
        wallet_address=authorization.from_,
        signature=authorized.signature,
        signed_at=now_s,
        repeat=payment.repeat,
        amount=format_token_amount(offer.amount, offer.asset.decimals),
        amount_usd=format_usd(offer.usd_micros),
        asset=offer.asset.symbol,
        network=offer.asset.network,
    )


def _answer_or_refuse(result: BaseModel | Deny) -> web.Response:
    if isinstance(result, Deny):
        status = {Reason.REQUEST_MALFORMED: 400, Reason.PROPOSAL_UNKNOWN: 404}.get(result.reason, 403)
        raise Refused(result.reason, result.detail, status)
    return _json(result)


def _json(message: BaseModel) -> web.Response:
    return web.Response(body=message.model_dump_json(by_alias=True).encode(), content_type="application/json")


def _refusal(refused: Refused) -> web.Response:
    message = api.Refusal(code=refused.reason.value, detail=refused.detail, hint=refused.reason.hint)
    response = _json(message)
    response.set_status(refused.status)
    return response
