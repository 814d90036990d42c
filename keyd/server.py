"""keyd's endpoints on the Unix socket: who asks, is the question well-formed, what is the answer.

Every endpoint and its roles stand in `keyd.api.ENDPOINTS`; the first thing that happens to a request is that
its kernel credentials are held against them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Final

import structlog

from keyd import api
from keyd.admin import Admin
from keyd.custody.backup import Backups
from keyd.custody.rotation import Rotation
from keyd.heads import Heads
from keyd.http.messages import Handlers, Refused, Request, Response, refusal, respond
from keyd.metrics import ANSWERED, CONTENT_TYPE, Metrics
from keyd.peer import Roles
from keyd.reasons import Reason
from keyd.record.floods import Flood
from keyd.record.looks import Looks
from keyd.record.sessions import Sessions
from keyd.routes.backup import BackupRoutes
from keyd.routes.ledger import LedgerRoutes
from keyd.routes.payments import PaymentRoutes
from keyd.routes.policy import PolicyRoutes
from keyd.routes.sessions import SessionRoutes
from keyd.routes.signin import SignInRoutes
from keyd.routes.wallets import WalletRoutes
from keyd.service import Service
from keyd.signins import SignIns
from keyd.views import Views
from ledger.errors import LedgerError

STRANGERS_PER_MINUTE: Final = 1
"""Entries about one user without the right role: enough to see an attempt, too few to fill a disk with."""

LOGGED_PER_MINUTE: Final = 3000
"""Requests of one user in the log; the ledger has every payment. journald drops what a service writes beyond 10,000
records in half a minute, and among them would be the signed heads."""
MAX_SHOWN_PATH: Final = 100
"""Characters of a path in log and ledger; those of our endpoints are shorter."""

log = structlog.get_logger("keyd.server")


class Server:
    """The endpoints around a `Service`."""

    def __init__(
        self,
        service: Service,
        admin: Admin,
        rotation: Rotation,
        backups: Backups,
        roles: Roles,
        clock: Callable[[], int],
        heads: Heads | None = None,
    ) -> None:
        """Without `heads` the ledger has no signed ones: for what is not a daemon."""
        self.service = service
        self.admin = admin
        self.sessions = Sessions(service.ledger, service.entropy)
        self.rotation = rotation
        self.backups = backups
        self.views = Views(service.ledger, service.policies)
        self.metrics = Metrics(service.ledger, service.policies, clock)
        self._looks = Looks(service.ledger)
        self._roles = roles
        self._clock = clock
        self._heads = heads
        self._strangers = Flood(STRANGERS_PER_MINUTE)
        self._logged = Flood(LOGGED_PER_MINUTE)
        self._handlers = self.handlers()

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "health": self._health,
            "metrics": self._metrics,
            **PaymentRoutes(self.service, self.views, self._looks, self._clock).handlers(),
            **PolicyRoutes(self.service, self.admin, self.views, self._roles, self._clock).handlers(),
            **SessionRoutes(self.service, self.sessions, self._looks, self._roles, self._clock).handlers(),
            **WalletRoutes(
                self.service.custody, self.rotation, self.views, self._looks, self._clock
            ).handlers(),
            **BackupRoutes(self.backups).handlers(),
            **LedgerRoutes(self.service.ledger, self._heads).handlers(),
            **SignInRoutes(SignIns(self.service)).handlers(),
        }

    # -- every request ------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Response:
        """Never raises: a fault of keyd's own is an answer, too."""
        began = time.perf_counter()
        response = await self._answer(request)
        seconds = time.perf_counter() - began
        self.metrics.answered(request.endpoint or "none", response.refused or ANSWERED, seconds)
        if request.method != "GET" or response.status != 200:  # egress asks for the policy every few seconds
            suppressed = self._logged.note(str(request.peer), self._clock())
            if suppressed is not None:
                _note(request, response, suppressed)
        return response

    async def _answer(self, request: Request) -> Response:
        try:
            request.endpoint = await self._endpoint_for(request)
            return await self._handlers[request.endpoint](request)
        except Refused as refused:
            return refusal(refused)
        except LedgerError as error:
            return refusal(Refused(Reason.LEDGER_UNAVAILABLE, str(error), 503))
        except Exception:
            log.exception("keyd.fault", path=request.path)
            return refusal(Refused(Reason.INTERNAL, "an unexpected fault; nothing was signed", 500))

    async def _endpoint_for(self, request: Request) -> str:
        """The name of the endpoint that is asked for, if this peer may use it. Raises Refused."""
        peer = request.peer
        name = find_endpoint(request)
        if name is not None and self._roles.any_of(peer, api.ENDPOINTS[name].roles):
            return name
        roles = self._roles.of(peer)
        what = f"{request.method} {request.path[:MAX_SHOWN_PATH]}"
        if roles and name is None:
            raise Refused(Reason.REQUEST_MALFORMED, f"there is no {what}", 404)
        if (suppressed := self._strangers.note(str(peer), self._clock())) is not None:
            await self.service.record_stranger(peer, what, suppressed)
        if not roles or name is None:
            raise Refused(Reason.PEER_UNKNOWN, f"uid {peer.uid} has no role")
        needed = " or ".join(sorted(api.ENDPOINTS[name].roles))
        raise Refused(Reason.ROLE_INSUFFICIENT, f"uid {peer.uid} is not {needed}, which {what} needs")

    async def _metrics(self, request: Request) -> Response:
        text = await self._looks.take(request.peer, self.metrics.exposition)
        return Response(text, content_type=CONTENT_TYPE)

    async def _health(self, request: Request) -> Response:
        problems = self.service.problems()
        return respond(
            api.Health(
                status="degraded" if problems else "ok",
                api_version=api.API_VERSION,
                version=version("osmoda-x402"),
                ledger_entries=self.service.ledger.head().seq,
                problems=problems,
                roles=sorted(self._roles.of(request.peer)),
            )
        )


def find_endpoint(request: Request) -> str | None:
    """The name of the endpoint that `request` is for; what stands for `{id}` goes into its `match_info`."""
    for name, pattern in _PATTERNS.get((request.method, len(request.segments)), ()):
        pairs = list(zip(pattern, request.segments, strict=True))
        if all(part in ("{id}", segment) for part, segment in pairs):
            request.match_info = {part.strip("{}"): segment for part, segment in pairs if part == "{id}"}
            return name
    return None


def _patterns() -> Mapping[tuple[str, int], Sequence[tuple[str, tuple[str, ...]]]]:
    """Paths of endpoints in segments, by method and number of segments; one without `{id}` goes first."""
    found: dict[tuple[str, int], list[tuple[str, tuple[str, ...]]]] = {}
    for name, endpoint in sorted(api.ENDPOINTS.items(), key=lambda item: "{id}" in item[1].path):
        segments = tuple(endpoint.path.split("/"))
        found.setdefault((endpoint.method, len(segments)), []).append((name, segments))
    return found


_PATTERNS: Final = _patterns()


def _note(request: Request, response: Response, suppressed: int) -> None:
    """In the log: who asked what, how it was answered, and which payment it was about.

    `suppressed` requests of this user came before and are not in the log.
    """
    known = {
        "reason": response.refused and response.refused.value,
        "payment": request.payment,
        "suppressed": suppressed,
    }
    log.info(
        "keyd.request",
        method=request.method,
        path=request.path[:MAX_SHOWN_PATH],
        status=response.status,
        uid=request.peer.uid,
        **{name: value for name, value in known.items() if value},
    )
