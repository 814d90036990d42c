"""The endpoints of wallets. None of them signs anything; one gives a key away, encrypted and on record."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from keyd import api
from keyd.core.policy import Deny
from keyd.custody.keystore import parse_private_key
from keyd.custody.rotation import Rotation
from keyd.custody.wallets import Custody
from keyd.http.messages import Handlers, Refused, Request, Response, parse, respond
from keyd.reasons import Reason
from keyd.record.looks import Looks
from keyd.views import Views

_STATUS = {
    Reason.WALLET_MISSING: 404,
    Reason.WALLET_EXISTS: 409,
    Reason.CONFIRMATION_WRONG: 400,
    Reason.LEDGER_UNAVAILABLE: 503,
}


class WalletRoutes:
    def __init__(
        self, custody: Custody, rotation: Rotation, views: Views, looks: Looks, clock: Callable[[], int]
    ) -> None:
        self._custody = custody
        self._rotation = rotation
        self._views = views
        self._looks = looks
        self._clock = clock

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {
            "wallet_create": self.create,
            "wallet_import": self.import_,
            "wallet_list": self.list_,
            "wallet_show": self.show,
            "wallet_archive": self.archive,
            "wallet_restore": self.restore,
            "wallet_default": self.default,
            "wallet_export": self.export,
            "kek": self.kek,
            "kek_rotate": self.rotate,
        }

    async def create(self, request: Request) -> Response:
        message = await parse(request, api.WalletCreate)
        return _answer_or_refuse(await self._custody.create(request.peer, message.label, self._now_s()))

    async def import_(self, request: Request) -> Response:
        message = await parse(request, api.WalletImport)
        try:
            key = parse_private_key(message.private_key)
        except ValueError as error:
            raise Refused(Reason.REQUEST_MALFORMED, f"private_key: {error}", 400) from None
        return _answer_or_refuse(await self._custody.import_(request.peer, message.label, key, self._now_s()))

    async def list_(self, _: Request) -> Response:
        return respond(self._custody.wallets())

    async def show(self, request: Request) -> Response:
        label = request.match_info["id"]
        held = self._custody.wallets()
        for wallet in held.wallets:
            if wallet.label == label:
                look = self._looks.take(request.peer, self._views.wallet, wallet, self._clock())
                return respond(await look)
        for damaged in held.damaged:
            if damaged.label == label:
                raise Refused(Reason.WALLET_UNREADABLE, damaged.problem)
        raise Refused(Reason.WALLET_MISSING, f"there is no wallet {label[:64]!r}", 404)

    async def archive(self, request: Request) -> Response:
        message, peer = await parse(request, api.WalletArchive), request.peer
        return _answer_or_refuse(
            await self._custody.archive(peer, message.label, even_default=message.even_default)
        )

    async def restore(self, request: Request) -> Response:
        message = await parse(request, api.WalletRestore)
        return _answer_or_refuse(await self._custody.restore(request.peer, message.label))

    async def default(self, request: Request) -> Response:
        message = await parse(request, api.WalletDefault)
        return _answer_or_refuse(await self._custody.choose_default(request.peer, message.label))

    async def export(self, request: Request) -> Response:
        message = await parse(request, api.WalletExport)
        return _answer_or_refuse(await self._custody.export(request.peer, message))

    async def kek(self, _: Request) -> Response:
        return respond(self._rotation.view())

    async def rotate(self, request: Request) -> Response:
        message = await parse(request, api.KekRotate)
        return _answer_or_refuse(await self._rotation.rotate(request.peer, message))

    def _now_s(self) -> int:
        return self._clock() // 1_000_000


def _answer_or_refuse(result: BaseModel | Deny) -> Response:
    if isinstance(result, Deny):
        raise Refused(result.reason, result.detail, _STATUS.get(result.reason, 403))
    return respond(result)
