"""Calls that were paid and have not been answered: what the application calls by one id, the server knows by another.

And calls that were cancelled before they were paid: they need not be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from mitmproxy import http

from egress.wire import mcp

SESSION: Final = "Mcp-Session-Id"
MAX_CANCELLED: Final = 256
"""Cancellations that are remembered, the last ones. A decision takes milliseconds; one that is forgotten costs the price
of a call that nobody waits for."""

type _Key = tuple[Hashable, str, int, str, mcp.Id, type]


class LiveCalls:
    """Paid calls by flow, and by the id that the application gave them in its session."""

    def __init__(self, asker: Callable[[http.HTTPFlow], Hashable]) -> None:
        """`asker`: who makes a request. Servers without sessions, and clients that count from 1, are many: nobody may
        cancel a call that another has paid."""
        self._asker = asker
        self._flows: dict[str, _Key] = {}
        self._new_ids: dict[_Key, str] = {}
        self._cancelled: OrderedDict[_Key, float] = OrderedDict()
        """When, in seconds of the epoch."""

    def begin(self, flow: http.HTTPFlow, paid: mcp.PaidCall) -> None:
        key = self._key(flow, paid.call.id)
        self._flows[flow.id] = key
        self._new_ids[key] = paid.new_id

    def end(self, flow: http.HTTPFlow) -> None:
        if (key := self._flows.pop(flow.id, None)) is not None:
            self._new_ids.pop(key, None)

    def was_cancelled(self, flow: http.HTTPFlow, call: mcp.Call) -> bool:
        """Since it was made."""
        return self._cancelled.get(self._key(flow, call.id), 0.0) >= flow.request.timestamp_start

    def follow(self, flow: http.HTTPFlow) -> None:
        """Make a cancellation name the call as the server knows it. One that was not paid, it knows by its first id."""
        request = flow.request
        if request.method != "POST":
            return
        found = mcp.read_cancelled(request.raw_content or b"")
        if found is None:
            return
        cancelled, notification = found
        key = self._key(flow, cancelled)
        if (new_id := self._new_ids.get(key)) is None:
            self._remember(key, request.timestamp_start)
        else:
            request.raw_content = mcp.cancelling(notification, new_id)
            request.headers["content-length"] = str(len(request.raw_content))

    def _remember(self, key: _Key, at: float) -> None:
        self._cancelled[key] = at
        self._cancelled.move_to_end(key)
        if len(self._cancelled) > MAX_CANCELLED:
            self._cancelled.popitem(last=False)

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
