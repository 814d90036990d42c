"""JSON-RPC 2.0 over HTTP to a server that may be slow, broken or hostile.

Answers are bounded and matched to their questions by id; batches are used while the server takes them.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Sequence
from itertools import batched
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiohttp

from reconcile.calls import Call, RpcError
from reconcile.config import server_name
from reconcile.faults import NodeFault

MAX_BATCH: Final = 10
"""Calls in one request. Public servers allow between 3 and 1000; one that allows fewer gets single calls."""
MAX_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of one answer. A block header without transactions has about 2 KiB, ten of them 20."""
_MAX_QUOTE: Final = 160
_SHORTEST_KEY: Final = 4
"""Shorter parts of a URL are versions (`v2`, `rpc`), which may well occur in an honest message."""
_BATCH_REFUSED: Final = frozenset({400, 404, 405, 413, 415, 422, 500, 501})
"""Seen from servers that do not know batches. 401, 403, 429 and 503 would be the same for single calls."""


def open_session() -> aiohttp.ClientSession:
    """System trust, no proxy, no cookies, no compression (an answer must not grow after it was measured)."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


class JsonRpc:
    """One server. `name` is its host, the only part of the URL that leaves this class."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timeout_s: float) -> None:
        self.name = server_name(url)
        self._session = session
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._takes_batches = True
        self._last_id = 0

    async def ask(self, calls: Sequence[Call]) -> list[Any]:
        """The `result` (any JSON) or `RpcError` of each call, in order. Raises NodeFault."""
        answers: list[Any] = []
        for some in batched(calls, MAX_BATCH):  # strict=False: the last batch is shorter
            batch = await self._ask_batch(some) if self._takes_batches and len(some) > 1 else None
            answers += [await self._ask_one(call) for call in some] if batch is None else batch
        return answers

    async def _ask_one(self, call: Call) -> Any:
        question = self._question(call)
        status, answer = await self._post(question)
        if not isinstance(answer, dict):
            raise NodeFault(f"HTTP {status} without a JSON-RPC answer")
        if status != 200 and "error" not in answer:
            raise NodeFault(f"HTTP {status}")
        return self._result(answer, question["id"])

    async def _ask_batch(self, calls: Sequence[Call]) -> list[Any] | None:
        """None if this server does not take batches."""
        questions = [self._question(call) for call in calls]
        status, answers = await self._post(questions)
        if not isinstance(answers, list):
            if status == 200 or status in _BATCH_REFUSED:
                self._takes_batches = False
                return None
            raise NodeFault(f"HTTP {status}")
        if status != 200 or len(answers) != len(questions):
            raise NodeFault(f"HTTP {status} with {len(answers)} answers to {len(questions)} calls")
        by_id = {a["id"]: a for a in answers if isinstance(a, dict) and type(a.get("id")) is int}
        return [self._result(by_id.get(question["id"]), question["id"]) for question in questions]

    def _question(self, call: Call) -> dict[str, Any]:
        self._last_id += 1
        return {"jsonrpc": "2.0", "id": self._last_id, "method": call.method, "params": list(call.params)}

    def _result(self, answer: dict[str, Any] | None, wanted: int) -> Any:
        if answer is None:
            raise NodeFault("an answer with another id")
        given, error = answer.get("id"), answer.get("error")
        unread = given is None and error is not None  # a call that the server could not read has no id for it
        if not unread and (type(given) is not int or given != wanted):
            raise NodeFault("an answer with another id")
        if error is None:
            if "result" not in answer:
                raise NodeFault("an answer with neither result nor error")
            return answer["result"]
        if not isinstance(error, dict) or type(error.get("code")) is not int:
            raise NodeFault("an error without a code")
        return RpcError(error["code"], self._quotable(error.get("message")))

    async def _post(self, body: Any) -> tuple[int, Any]:
        """HTTP status and JSON (None if it is none). Raises NodeFault in our own words: aiohttp's name the URL."""
        try:
            async with self._session.post(
                self._url, json=body, timeout=self._timeout, allow_redirects=False
            ) as response:
                if 300 <= response.status < 400:
                    raise NodeFault(f"HTTP {response.status}: redirects are not followed")
                return response.status, _parse(await _read(response))
        except TimeoutError:
            raise NodeFault(f"no answer within {self._timeout.total:g} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise NodeFault("its TLS certificate is not trusted") from None
        except aiohttp.ClientConnectorError as error:
            raise NodeFault(f"cannot connect: {error.strerror or 'name or TLS failure'}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NodeFault(f"the connection failed ({type(error).__name__})") from None

    def _quotable(self, message: object) -> str:
        """What the server says, unless it repeats a part of the URL that may be a key."""
        if not isinstance(message, str):
            return "no message"
        parts = urlsplit(self._url)
        pieces = (*parts.path.split("/"), *re.split("[=&]", parts.query), parts.username, parts.password)
        said = message.lower()
        if any(unquote(piece).lower() in said for piece in pieces if piece and len(piece) >= _SHORTEST_KEY):
            return "(withheld: it quotes the URL)"
        return ascii(message[:_MAX_QUOTE])


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise NodeFault(f"an answer of more than {MAX_ANSWER} bytes")
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, digits by the thousand, nested without end
        return None
