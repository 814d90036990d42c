"""Every endpoint of keyd and who may call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from keyd.api.base import Role


class Endpoint(NamedTuple):
    method: str
    path: str
    roles: frozenset[Role]


_EVERYONE = frozenset(Role)
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "health": Endpoint("GET", "/health", _EVERYONE),
    "metrics": Endpoint("GET", "/metrics", frozenset({Role.ADMIN, Role.AGENT})),
    "sign": Endpoint("POST", "/x402/sign", frozenset({Role.EGRESS})),
    "quote": Endpoint("POST", "/x402/quote", frozenset({Role.ADMIN, Role.AGENT})),
    "signin": Endpoint("POST", "/x402/signin", frozenset({Role.EGRESS})),
    "outcome": Endpoint("POST", "/x402/outcome", frozenset({Role.EGRESS})),
    "policy": Endpoint("GET", "/x402/policy", _EVERYONE),
    "policy_change": Endpoint("PATCH", "/x402/policy", frozenset({Role.ADMIN, Role.AGENT})),
    "policy_reset": Endpoint("POST", "/x402/policy/reset", frozenset({Role.ADMIN})),
    "approve": Endpoint("POST", "/x402/proposals/{id}/approve", frozenset({Role.ADMIN})),
    "reject": Endpoint("POST", "/x402/proposals/{id}/reject", frozenset({Role.ADMIN})),
    "freeze": Endpoint("POST", "/x402/freeze", frozenset({Role.ADMIN, Role.AGENT})),
    "unfreeze": Endpoint("POST", "/x402/unfreeze", frozenset({Role.ADMIN})),
    "session_open": Endpoint("POST", "/x402/sessions", frozenset({Role.ADMIN, Role.AGENT})),
    "session_list": Endpoint("GET", "/x402/sessions", frozenset({Role.ADMIN, Role.AGENT})),
    "session_close": Endpoint("POST", "/x402/sessions/{id}/close", frozenset({Role.ADMIN, Role.AGENT})),
    "spend": Endpoint("GET", "/x402/spend", frozenset({Role.ADMIN, Role.AGENT})),
    "payments": Endpoint("GET", "/x402/payments", frozenset({Role.ADMIN, Role.AGENT})),
    "payment": Endpoint("GET", "/x402/payments/{id}", frozenset({Role.ADMIN, Role.AGENT})),
    "refusals": Endpoint("GET", "/x402/refusals", frozenset({Role.ADMIN, Role.AGENT})),
    "open_payments": Endpoint("GET", "/x402/open", frozenset({Role.RECONCILER})),
    "evidence": Endpoint("POST", "/x402/evidence", frozenset({Role.RECONCILER})),
    "wallet_create": Endpoint("POST", "/wallet/create", frozenset({Role.ADMIN})),
    "wallet_import": Endpoint("POST", "/wallet/import", frozenset({Role.ADMIN})),
    "wallet_list": Endpoint("GET", "/wallet/list", frozenset({Role.ADMIN})),
    "wallet_show": Endpoint("GET", "/wallet/show/{id}", frozenset({Role.ADMIN})),
    "wallet_archive": Endpoint("POST", "/wallet/archive", frozenset({Role.ADMIN})),
    "wallet_restore": Endpoint("POST", "/wallet/restore", frozenset({Role.ADMIN})),
    "wallet_default": Endpoint("POST", "/wallet/default", frozenset({Role.ADMIN})),
    "wallet_export": Endpoint("POST", "/wallet/export", frozenset({Role.ADMIN})),
    "backup": Endpoint("POST", "/backup", frozenset({Role.ADMIN})),
    "backup_part": Endpoint("GET", "/backup/{id}", frozenset({Role.ADMIN})),
    "kek": Endpoint("GET", "/wallet/kek", frozenset({Role.ADMIN})),
    "kek_rotate": Endpoint("POST", "/wallet/rotate-kek", frozenset({Role.ADMIN})),
    "ledger_entries": Endpoint("GET", "/ledger/entries", frozenset({Role.ADMIN})),
    "ledger_head": Endpoint("GET", "/ledger/head", frozenset({Role.ADMIN, Role.RECONCILER})),
    "ledger_checkpoint": Endpoint("POST", "/ledger/checkpoint", frozenset({Role.ADMIN, Role.RECONCILER})),
    "ledger_verify": Endpoint("POST", "/ledger/verify", frozenset({Role.ADMIN})),
}
"""Every endpoint and who may call it. A role that is not named is refused with `role_insufficient`."""
