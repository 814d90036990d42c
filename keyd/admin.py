"""Changes of policy at run time: who may change what, on the record before it takes effect.

The record is the truth. `overrides.toml` in the state folder is written after each change, for people and
backups; if it was edited, lost or left behind by a crash, the next start writes it anew from the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import batched
from pathlib import Path
from typing import Any, Final

import structlog
import tomli_w

from keyd import api
from keyd.api import Role
from keyd.core.overrides import Document, Overrides, apply, beyond, wider
from keyd.core.policy import Deny
from keyd.domains import DomainPattern
from keyd.files import write_private
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts, proposals
from keyd.record.facts import Kind
from keyd.record.floods import Flood
from keyd.record.policies import Policies
from ledger.log import Ledger
from ledger.transaction import Transaction

AGENT_CHANGES_PER_MINUTE: Final = 30
"""An agent that changes policy more often is in a loop, and each change is an entry."""
MAX_OVERRIDES: Final = 500
"""Domains and budgets changed at run time, all together; each decision reads them."""
FACTS_IN_ENTRY: Final = 200
"""Pinned prices that one entry forgets. A path has up to 2048 characters, and whoever reads an export takes lines of
4 MiB at the most: more in one entry, and the whole ledger could be exported but not verified."""
_HEADER = "# Written by keyd after each change of policy; edits are undone at its next start.\n"

log = structlog.get_logger("keyd.admin")


class Admin:
    """Overrides, proposals, freezing. Methods raise LedgerError if a change cannot be recorded."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        policies: Policies,
        overrides_file: Path,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._file = overrides_file
        self._entropy = entropy
        self._agents = Flood(AGENT_CHANGES_PER_MINUTE)
        self._again = Flood(AGENT_CHANGES_PER_MINUTE)

    async def change(
        self, peer: Peer, roles: frozenset[Role], patch: api.PolicyPatch
    ) -> api.PolicyChanged | Deny:
        """An administrator's change within the limits, or an agent's that only tightens; else a proposal."""
        changed = await self._transact(lambda tx: self._change(tx, peer, roles, patch))
        self.write_file()
        return changed

    def _change(
        self, tx: Transaction, peer: Peer, roles: frozenset[Role], patch: api.PolicyPatch
    ) -> api.PolicyChanged | Deny:
        before = self._policies.overrides(tx.db)
        try:
            after = before.patched(patch)
        except ValueError as error:
            return Deny(Reason.REQUEST_MALFORMED, str(error))
        if after == before:
            return api.PolicyChanged(applied=True)
        if Role.ADMIN not in roles and self._agents.note(str(peer), tx.now) is None:
            return Deny(Reason.RATE_LIMIT, f"more than {AGENT_CHANGES_PER_MINUTE} changes in a minute")
        base = self._policies.base
        widened = wider(apply(base, before), apply(base, after))
        if widened and (excess := beyond(apply(base, after), base, self._policies.limits)):
            return Deny(Reason.POLICY_LIMIT, "; ".join(excess))
        if after.size() > MAX_OVERRIDES:
            return Deny(Reason.POLICY_LIMIT, f"more than {MAX_OVERRIDES} overrides; move them to keyd.toml")
        if widened and Role.ADMIN not in roles:
            return self._propose(tx, peer, patch, widened)
        _record_change(tx, peer, before, after)
        return api.PolicyChanged(applied=True, wider=widened)

    def _propose(
        self, tx: Transaction, peer: Peer, patch: api.PolicyPatch, widened: list[str]
    ) -> api.PolicyChanged | Deny:
        now_s = tx.now // 1_000_000
        if sum(map(len, widened)) > proposals.MAX_WORDS:
            return Deny(Reason.POLICY_LIMIT, "the change is too long for a person to read; split it")
        if proposals.full(tx.db, "policy", str(peer), now_s):
            return Deny(Reason.POLICY_LIMIT, "too many proposals are waiting already")
        proposal, fact = proposals.proposed_change(self._entropy(6).hex(), patch, widened, str(peer), now_s)
        data = {"facts": [*proposals.expired(tx.db, now_s), fact], "proposal": proposal.id, "wider": widened}
        tx.append("x402.policy.proposed", str(peer), data)
        return api.PolicyChanged(applied=False, proposal=proposal, wider=widened)

    async def decide(self, peer: Peer, proposal_id: str, *, approve: bool) -> api.Decided | Deny:
        """An administrator's word on a proposal or a held payment."""
        decided = await self._transact(lambda tx: self._decide(tx, peer, proposal_id, approve=approve))
        self.write_file()
        return decided

    def _decide(self, tx: Transaction, peer: Peer, proposal_id: str, *, approve: bool) -> api.Decided | Deny:
        now_s = tx.now // 1_000_000
        waiting = proposals.find(tx.db, proposal_id, now_s)
        if waiting is None:
            return Deny(Reason.PROPOSAL_UNKNOWN, f"nothing waits under {proposal_id}")
        changes = [facts.put(Kind.PENDING, proposal_id, None)]
        if approve and waiting["kind"] == "payment":
            changes.append(facts.put(Kind.APPROVAL, proposal_id, now_s + proposals.APPROVAL_S))
        elif approve:
            before = self._policies.overrides(tx.db)
            after = before.patched(api.PolicyPatch.model_validate(waiting["patch"]))
            base = self._policies.base
            widened = wider(apply(base, before), apply(base, after))
            if unread := [words for words in widened if words not in waiting["words"]]:
                return Deny(Reason.PROPOSAL_STALE, f"by now it also {'; '.join(unread)}")
            if excess := beyond(apply(base, after), base, self._policies.limits):
                return Deny(Reason.POLICY_LIMIT, "; ".join(excess))
            _record_change(tx, peer, before, after)
        event = "x402.policy.approved" if approve else "x402.policy.rejected"
        tx.append(event, str(peer), {"facts": changes, "proposal": proposal_id})
        return api.Decided(proposal=proposals.view(proposal_id, waiting), applied=approve)

    async def reset(self, peer: Peer, domain: str | None) -> api.PolicyChanged:
        """Without a domain: back to the base. With one: its pin and its quarantine are forgotten."""
        await self._transact(lambda tx: self._reset(tx, peer, domain))
        self.write_file()
        return api.PolicyChanged(applied=True)

    def _reset(self, tx: Transaction, peer: Peer, domain: str | None) -> None:
        if domain is None:
            _record_change(tx, peer, self._policies.overrides(tx.db), Overrides())
            return
        domain = _as_recorded(domain)
        changes = [facts.put(Kind.PIN, domain, None), facts.put(Kind.TROUBLE, domain, None)]
        prices = facts.under(tx.db, Kind.PRICE, facts.price_prefix(domain))
        changes += [facts.put(Kind.PRICE, key, None) for key in prices]
        for some in batched(changes, FACTS_IN_ENTRY):  # strict=False: the last batch is shorter
            tx.append("x402.policy.changed", str(peer), {"facts": list(some), "reset": domain})

    async def freeze(self, peer: Peer, reason: str) -> None:
        """From the next decision on nothing is signed. Who froze first stays; later ones are on record beside."""

        def step(tx: Transaction) -> None:
            first = facts.get(tx.db, Kind.FROZEN, "")
            if first is None:
                value = {"at": tx.now // 1_000_000, "by": str(peer), "reason": reason}
                changes = {"facts": [facts.put(Kind.FROZEN, "", value)], "reason": reason}
                tx.append("x402.frozen", str(peer), changes)
            elif self._again.note(str(peer), tx.now) is not None:
                tx.append("x402.frozen", str(peer), {"frozen_by": first["by"], "reason": reason})

        await self._transact(step)

    async def unfreeze(self, peer: Peer) -> None:
        await self._transact(
            lambda tx: tx.append("x402.unfrozen", str(peer), {"facts": [facts.put(Kind.FROZEN, "", None)]})
        )

    async def record_base(self, document: Document) -> None:
        """At start: a base that differs from the last start's is a change of policy, and goes on record."""

        def step(tx: Transaction) -> None:
            before = facts.get(tx.db, Kind.BASE, "")
            if before != document:
                data = {"after": document, "before": before, "facts": [facts.put(Kind.BASE, "", document)]}
                tx.append("x402.policy.changed", "keyd", data | {"source": "keyd.toml"})

        await self._transact(step)

    def write_file(self) -> None:
        """overrides.toml as the record has it. A fault is logged: the record decides, the file only shows."""
        document = self._ledger.read(lambda db: facts.get(db, Kind.OVERRIDES, "")) or {}
        content = (_HEADER + tomli_w.dumps(document)).encode()
        try:
            if not self._file.exists() or self._file.read_bytes() != content:
                write_private(self._file, content, replace=True)
        except OSError as error:
            log.error("keyd.overrides.not_written", file=str(self._file), error=error.strerror)  # noqa: TRY400

    async def _transact[T](self, step: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._ledger.transact(step))


def _as_recorded(domain: str) -> str:
    """The record's spelling of a domain that a person wrote; one that cannot be read is looked up as it is."""
    try:
        return str(DomainPattern.parse(domain))
    except ValueError:
        return domain


def _record_change(tx: Transaction, peer: Peer, before: Overrides, after: Overrides) -> None:
    old, new = before.as_document(), after.as_document()
    data: dict[str, Any] = {"after": new, "before": old, "source": "overrides"}
    tx.append(
        "x402.policy.changed", str(peer), data | {"facts": [facts.put(Kind.OVERRIDES, "", new or None)]}
    )
