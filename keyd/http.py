"""What every endpoint shares: who asks, bodies parsed in bounded time, answers, refusals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from pydantic import BaseModel, ValidationError

from keyd import api
from keyd.peer import Peer, peer_of
from keyd.reasons import Reason

BODY_TIMEOUT_S: Final = 10.0
"""A peer that sends its body slower than this holds a connection for nothing; real ones need milliseconds."""

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
type Handlers = Mapping[str, Handler]

_PEER: Final = web.RequestKey("peer", Peer)


class Refused(Exception):
    """An answer other than 200: a reason code, figures, and the HTTP status."""

    def __init__(self, reason: Reason, detail: str, status: int = 403) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail
        self.status = status


def peer_of_request(request: web.Request) -> Peer:
    peer = request.get(_PEER)
    if peer is None:
        assert request.transport is not None  # a request that is being answered has a connection
        connection: socket.socket = request.transport.get_extra_info("socket")
        peer = request[_PEER] = peer_of(connection)
    return peer


async def body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise Refused(Reason.REQUEST_MALFORMED, "the body did not arrive in time", 408) from None


async def parse[Parsed: BaseModel](request: web.Request, model: type[Parsed]) -> Parsed:
    try:
        return model.model_validate_json(await body(request))
    except ValidationError as error:
        raise Refused(Reason.REQUEST_MALFORMED, first_mistake(error), 400) from None


def first_mistake(error: ValueError) -> str:
    """In words, and without the input itself: it may be a private key."""
    if not isinstance(error, ValidationError):
        return str(error)
    mistake = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in mistake['loc']) or 'body'}: {mistake['msg']}"


def number(request: web.Request, name: str, *, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise Refused(Reason.REQUEST_MALFORMED, f"{name} is not a number of at least 0", 400)
    return int(text)


def respond(message: BaseModel) -> web.Response:
    return web.Response(body=message.model_dump_json(by_alias=True).encode(), content_type="application/json")


def refusal(refused: Refused) -> web.Response:
    message = api.Refusal(code=refused.reason.value, detail=refused.detail, hint=refused.reason.hint)
    response = respond(message)
    response.set_status(refused.status)
    return response
