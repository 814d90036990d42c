"""Client of keyd's socket: used by egress, the bridge and keyctl."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from keyd import api


class KeydUnreachable(Exception):
    """Nobody answers on the socket (OSError text inside). Nothing was decided."""


class KeydRefused(Exception):
    """keyd answered with a reason code."""

    def __init__(self, status: int, refusal: api.Refusal) -> None:
        super().__init__(f"{refusal.code}: {refusal.detail}")
        self.status = status
        self.refusal = refusal


class KeydProtocolError(Exception):
    """keyd answered something that is not of this contract."""


class KeydClient:
    """One pool of connections to keyd. Use as `async with KeydClient(path) as keyd:`."""

    def __init__(self, socket: str, *, timeout_s: float = 10.0) -> None:
        self.socket = socket
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def sign(self, request: api.SignRequest) -> api.SignReply:
        return await self._call("sign", api.SignReply, request)

    async def quote(self, request: api.QuoteRequest) -> api.Quote:
        return await self._call("quote", api.Quote, request)

    async def sign_in(self, request: api.SignInRequest) -> api.SignInReply:
        return await self._call("signin", api.SignInReply, request)

    async def outcome(self, report: api.OutcomeReport) -> api.OutcomeReply:
        return await self._call("outcome", api.OutcomeReply, report)

    async def open_payments(self, *, after: int = 0) -> api.OpenPayments:
        return await self._call("open_payments", api.OpenPayments, query={"after": str(after)})

    async def evidence(self, evidence: api.ChainEvidence) -> api.OutcomeReply:
        return await self._call("evidence", api.OutcomeReply, evidence)

    async def policy(self) -> api.PolicyView:
        return await self._call("policy", api.PolicyView)

    async def health(self) -> api.Health:
        return await self._call("health", api.Health)

    async def policy_change(self, patch: api.PolicyPatch, *, as_agent: bool = False) -> api.PolicyChanged:
        """`as_agent`: what would permit more becomes a proposal, also if this user is an administrator."""
        query = {"as": api.Role.AGENT.value} if as_agent else None
        return await self._call("policy_change", api.PolicyChanged, patch, query=query)

    async def policy_reset(self, request: api.PolicyReset) -> api.PolicyChanged:
        return await self._call("policy_reset", api.PolicyChanged, request)

    async def approve(self, proposal_id: str) -> api.Decided:
        return await self._call("approve", api.Decided, resource=proposal_id)

    async def reject(self, proposal_id: str) -> api.Decided:
        return await self._call("reject", api.Decided, resource=proposal_id)

    async def freeze(self, request: api.Freeze) -> api.Frozen:
        return await self._call("freeze", api.Frozen, request)

    async def unfreeze(self) -> api.Frozen:
        return await self._call("unfreeze", api.Frozen)

    async def session_open(self, request: api.SessionOpen) -> api.SessionOpened:
        return await self._call("session_open", api.SessionOpened, request)

    async def sessions(self) -> api.SessionList:
        return await self._call("session_list", api.SessionList)

    async def session_close(self, session_id: str) -> api.Session:
        return await self._call("session_close", api.Session, resource=session_id)

    async def spend(self, *, by: api.SpendBy, since: str | None = None) -> api.Spend:
        query = {"by": by.value} | ({} if since is None else {"since": since})
        return await self._call("spend", api.Spend, query=query)

    async def payments(
        self, *, state: str | None = None, domain: str | None = None, limit: int = 50
    ) -> api.PaymentList:
        filters = {"state": state, "domain": domain, "limit": str(limit)}
        query = {name: value for name, value in filters.items() if value is not None}
        return await self._call("payments", api.PaymentList, query=query)

    async def refusals(self, *, limit: int = 50) -> api.RefusalList:
        return await self._call("refusals", api.RefusalList, query={"limit": str(limit)})

    async def payment(self, payment_id: str) -> api.PaymentStory:
        return await self._call("payment", api.PaymentStory, resource=payment_id)

    async def wallet_create(self, request: api.WalletCreate) -> api.Wallet:
        return await self._call("wallet_create", api.Wallet, request)

    async def wallet_import(self, request: api.WalletImport) -> api.Wallet:
        return await self._call("wallet_import", api.Wallet, request)

    async def wallet_list(self) -> api.WalletList:
        return await self._call("wallet_list", api.WalletList)

    async def wallet_show(self, label: str) -> api.WalletView:
        return await self._call("wallet_show", api.WalletView, resource=label)

    async def wallet_archive(self, request: api.WalletArchive) -> api.Wallet:
        return await self._call("wallet_archive", api.Wallet, request)

    async def wallet_restore(self, request: api.WalletRestore) -> api.Wallet:
        return await self._call("wallet_restore", api.Wallet, request)

    async def wallet_default(self, request: api.WalletDefault) -> api.Wallet:
        return await self._call("wallet_default", api.Wallet, request)

    async def wallet_export(self, request: api.WalletExport) -> api.WalletExported:
        return await self._call("wallet_export", api.WalletExported, request)

    async def backup(self, request: api.BackupMake) -> api.BackupMade:
        return await self._call("backup", api.BackupMade, request)

    async def backup_part(self, backup_id: str, *, offset: int) -> api.BackupPart:
        return await self._call(
            "backup_part", api.BackupPart, resource=backup_id, query={"from": str(offset)}
        )

    async def kek(self) -> api.KekView:
        return await self._call("kek", api.KekView)

    async def kek_rotate(self, request: api.KekRotate) -> api.KekRotated:
        return await self._call("kek_rotate", api.KekRotated, request)

    async def ledger_entries(self, *, limit: int, after: int | None = None) -> api.LedgerEntries:
        query = {"limit": str(limit)} | ({} if after is None else {"after": str(after)})
        return await self._call("ledger_entries", api.LedgerEntries, query=query)

    async def ledger_head(self) -> api.LedgerHead:
        return await self._call("ledger_head", api.LedgerHead)

    async def ledger_checkpoint(self) -> api.SignedHead:
        return await self._call("ledger_checkpoint", api.SignedHead)

    async def ledger_verify(self, request: api.LedgerVerify | None = None) -> api.LedgerVerdict:
        """Reads the whole ledger: give the client a `timeout_s` to match."""
        return await self._call("ledger_verify", api.LedgerVerdict, request)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self.socket, limit=0), timeout=self._timeout
            )
        return self._session

    async def _call[Reply: BaseModel](
        self,
        name: str,
        reply: type[Reply],
        message: BaseModel | None = None,
        query: dict[str, str] | None = None,
        resource: str | None = None,
    ) -> Reply:
        """Raises KeydUnreachable, KeydRefused, KeydProtocolError. Never retries: the caller knows if it may."""
        endpoint = api.ENDPOINTS[name]
        path = endpoint.path if resource is None else endpoint.path.replace("{id}", quote(resource, safe=""))
        body = None if message is None else message.model_dump_json(by_alias=True, exclude_none=True).encode()
        try:
            async with self._open().request(
                endpoint.method,
                URL(f"http://keyd{path}", encoded=True),
                params=query,
                data=body,
                headers={"Content-Type": "application/json"} if body else None,
            ) as response:
                status, answer = response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise KeydUnreachable(f"{self.socket}: {str(error) or type(error).__name__}") from error
        try:
            if status != 200:
                raise KeydRefused(status, api.Refusal.model_validate_json(answer))
            return reply.model_validate_json(answer)
        except ValidationError as error:
            raise KeydProtocolError(
                f"{endpoint.method} {endpoint.path}: unexpected answer ({status})"
            ) from error
