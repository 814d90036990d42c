"""A held 402, and what can be done with it: pass it on, or send the request once more in one of three ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mitmproxy import http

from egress.paying.exchange import Payment
from egress.wire.mcp import Call
from egress.wire.x402 import Header, PaymentRequired
from keyd.api import Origin
from keyd.reasons import Reason


@dataclass(frozen=True, slots=True)
class PassOn:
    """Give the application the original 402; `reason` goes into X-402-Egress."""

    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask for the same resource as JSON: some servers show browsers, and what passes for one, a page without terms.

    The answer is egress's own. If it is a 402, it says what the held one should have said.
    """

    origin: Origin
    header: ClassVar[Header] = Header("Accept", "application/json")


@dataclass(frozen=True, slots=True)
class SignIn:
    """Repeat the request with a signed-in wallet; anything but another 402 is the application's answer."""

    origin: Origin
    header: Header


@dataclass(frozen=True, slots=True)
class Pay:
    """Repeat the request with `payment`, to `origin` and nowhere else. Whatever comes is the answer."""

    origin: Origin
    payment: Payment


type Repeat = Probe | SignIn | Pay


@dataclass(frozen=True, slots=True)
class Asked:
    """An MCP call, and the terms that its answer stated instead of a 402."""

    call: Call
    terms: PaymentRequired


@dataclass(slots=True)
class Advance:
    """A complete request that has not been sent. The connection for it is open."""

    flow: http.HTTPFlow
    request_body: bytes
    decision: Pay | None = None
    """To be set by the addon. None: send it unpaid."""


@dataclass(slots=True)
class Challenge:
    """A complete 402 that is held, and the complete request that it answers."""

    flow: http.HTTPFlow
    request_body: bytes
    asked: Asked | None = None
    """The answer is no 402, but one of MCP."""
    probed: http.Response | None = None
    """The 402 that answered a probe: its terms count instead of those of the held one."""
    decision: PassOn | Repeat = PassOn(Reason.INTERNAL)
    """To be set by the addon. The default stands if the addon fails."""
    upstream_blocked: bool = False
    """To be set by the addon: the server has not read all of the first request. On this connection the next one
    would wait behind bytes that may never be read."""


def repeated(repeat: Repeat, request: http.Request, body: bytes) -> tuple[http.Request, bytes]:
    """The request to be sent, and its body. `request` stays as the application sent it, without what was signed."""
    sent = request.copy()
    instrument = repeat.payment.instrument if isinstance(repeat, Pay) else repeat.header
    if isinstance(instrument, Header):
        in_lower_case = request.is_http2 or request.is_http3
        sent.headers[instrument.name.lower() if in_lower_case else instrument.name] = instrument.value
        return sent, body
    sent.headers.pop("transfer-encoding", None)
    sent.headers["content-length"] = str(len(instrument.body))
    sent.headers["accept-encoding"] = "identity"  # its id is put back as the answer passes
    return sent, instrument.body


@dataclass(frozen=True, slots=True)
class PaidAnswerBegun:
    """The answer to a paid call, whose headers the application does not get."""

    flow: http.HTTPFlow
    response: http.Response
