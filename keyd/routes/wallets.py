"""The endpoints of wallets. None of them signs anything, and none gives a key away."""

from __future__ import annotations

from collections.abc import Callable

from keyd import api
from keyd.http import Handlers, Refused, Request, Response, parse, respond
from keyd.keystore import WalletExists, WalletInfo, parse_private_key
from keyd.reasons import Reason
from keyd.service import Service


class WalletRoutes:
    def __init__(self, service: Service, clock: Callable[[], int]) -> None:
        self._service = service
        self._clock = clock

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "wallet_create": self.wallet_create,
            "wallet_import": self.wallet_import,
            "wallet_list": self.wallet_list,
        }

    async def wallet_create(self, request: Request) -> Response:
        message = await parse(request, api.WalletCreate)
        return await self._made(
            request, "wallet.created", lambda now: self._service.wallets.create(message.label, now)
        )

    async def wallet_import(self, request: Request) -> Response:
        message = await parse(request, api.WalletImport)
        try:
            key = parse_private_key(message.private_key)
        except ValueError as error:
            raise Refused(Reason.REQUEST_MALFORMED, f"private_key: {error}", 400) from None
        return await self._made(
            request, "wallet.imported", lambda now: self._service.wallets.store(message.label, key, now)
        )

    async def _made(self, request: Request, event: str, make: Callable[[int], WalletInfo]) -> Response:
        try:
            info = make(self._clock() // 1_000_000)
        except WalletExists as error:
            raise Refused(Reason.WALLET_EXISTS, f"wallet {str(error)!r}", 409) from None
        data: dict[str, object] = {"address": info.address, "label": info.label}
        await self._service.record(str(request.peer), event, data)
        return respond(self._wallet(info))

    async def wallet_list(self, request: Request) -> Response:
        return respond(api.WalletList(wallets=[self._wallet(info) for info in self._service.wallets.list()]))

    def _wallet(self, info: WalletInfo) -> api.Wallet:
        return api.Wallet(
            label=info.label,
            address=info.address,
            created_at=info.created_at,
            default=info.label == self._service.default_wallet,
        )
