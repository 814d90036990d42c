"""Calls that were paid and have not been answered: what the application calls by one id, the server knows by another."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Final

from mitmproxy import http

from egress.wire import mcp

SESSION: Final = "Mcp-Session-Id"

type _Key = tuple[Hashable, str, int, str, mcp.Id, type]


class LiveCalls:
    """Paid calls by flow, and by the id that the application gave them in its session."""

    def __init__(self, asker: Callable[[http.HTTPFlow], Hashable]) -> None:
        """`asker`: who makes a request. Servers without sessions, and clients that count from 1, are many: nobody may
        cancel a call that another has paid."""
        self._asker = asker
        self._flows: dict[str, _Key] = {}
        self._new_ids: dict[_Key, str] = {}

    def begin(self, flow: http.HTTPFlow, paid: mcp.PaidCall) -> None:
        key = self._key(flow, paid.call.id)
        self._flows[flow.id] = key
        self._new_ids[key] = paid.new_id

    def end(self, flow: http.HTTPFlow) -> None:
        if (key := self._flows.pop(flow.id, None)) is not None:
            self._new_ids.pop(key, None)

    def follow(self, flow: http.HTTPFlow) -> None:
        """Make a cancellation name the call as the server knows it."""
        request = flow.request
        if not self._flows or request.method != "POST":
            return
        found = mcp.read_cancelled(request.raw_content or b"")
        if found is None:
            return
        cancelled, notification = found
        if (new_id := self._new_ids.get(self._key(flow, cancelled))) is not None:
            request.raw_content = mcp.cancelling(notification, new_id)
            request.headers["content-length"] = str(len(request.raw_content))

    def _key(self, flow: http.HTTPFlow, call_id: mcp.Id) -> _Key:
        request = flow.request
        session = request.headers.get(SESSION, "")
        return self._asker(flow), request.host, request.port, session, call_id, type(call_id)


def kind_of(headers: Mapping[str, str]) -> mcp.Kind | None:
    """How an answer carries JSON-RPC; None if it does not, or not in the clear."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return None
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return {"application/json": mcp.Kind.JSON, "text/event-stream": mcp.Kind.EVENTS}.get(media_type)
