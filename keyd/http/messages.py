"""HTTP messages as keyd's endpoints see them: a request with the peer that sent it, answers, refusals.

How they travel is the matter of `keyd.http.connection`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ValidationError

from keyd import api
from keyd.peer import Peer
from keyd.reasons import Reason


class Refused(Exception):
    """An answer other than 200: a reason code, figures, and the HTTP status."""

    def __init__(self, reason: Reason, detail: str, status: int = 403) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail
        self.status = status


class Request:
    """The head of a request, and its body once somebody asks for it."""

    def __init__(
        self, method: str, target: str, peer: Peer, receive: Callable[[], Awaitable[bytes]] | None = None
    ) -> None:
        """`target` as in the request line (RFC 9112, section 3.2)."""
        path, _, query = target.partition("?")
        self.method = method
        self.path = unquote(path)
        self.segments = tuple(unquote(segment) for segment in path.split("/"))
        self.query: Mapping[str, str] = dict(parse_qsl(query, keep_blank_values=True))
        self.endpoint: str | None = None
        """Its name in `keyd.api.ENDPOINTS`, once the peer was found to be allowed to use it."""
        self.match_info: Mapping[str, str] = {}
        """What stands for `{id}` in the endpoint's path."""
        self.payment: str | None = None
        """The payment that it turned out to be about: by this id people find it in keyd's log and in egress's."""
        self.peer = peer
        self._receive = receive

    async def body(self) -> bytes:
        """Bounded in size and time. Raises Refused."""
        return b"" if self._receive is None else await self._receive()


@dataclass(frozen=True, slots=True)
class Response:
    """A document, JSON unless it says otherwise, and its status."""

    body: bytes
    status: int = 200
    close: bool = False
    """Nothing more is wanted from this peer."""
    content_type: str = "application/json"
    refused: Reason | None = None
    """Why the answer is no."""


type Handler = Callable[[Request], Awaitable[Response]]
type Handlers = Mapping[str, Handler]


async def parse[Parsed: BaseModel](request: Request, model: type[Parsed], *, empty: bytes = b"") -> Parsed:
    """The body as a message; no body at all means `empty`. Raises Refused."""
    try:
        return model.model_validate_json(await request.body() or empty)
    except ValidationError as error:
        raise Refused(Reason.REQUEST_MALFORMED, first_mistake(error), 400) from None


def first_mistake(error: ValueError) -> str:
    """In words, and without the input itself: it may be a private key."""
    if not isinstance(error, ValidationError):
        return str(error)
    mistake = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in mistake['loc']) or 'body'}: {mistake['msg']}"


def number(request: Request, name: str, *, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise Refused(Reason.REQUEST_MALFORMED, f"{name} is not a number of at least 0", 400)
    return int(text)


def respond(message: BaseModel) -> Response:
    return Response(message.model_dump_json(by_alias=True).encode())


def refusal(refused: Refused) -> Response:
    message = api.Refusal(code=refused.reason.value, detail=refused.detail, hint=refused.reason.hint)
    # A stranger gets its answer and no place to wait for another.
    close = refused.reason is Reason.PEER_UNKNOWN
    body = message.model_dump_json().encode()
    return Response(body, refused.status, close, refused=refused.reason)
