"""The endpoints of backups. They give away all keys: encrypted, to an administrator, on record."""

from __future__ import annotations

import asyncio
import base64

from keyd import api
from keyd.core.policy import Deny
from keyd.custody.backup import Backups
from keyd.http.messages import Handlers, Refused, Request, Response, number, parse, respond
from keyd.reasons import Reason


class BackupRoutes:
    def __init__(self, backups: Backups) -> None:
        self._backups = backups

    def handlers(self) -> Handlers:
        """By the names of `keyd.api.ENDPOINTS`."""
        return {"backup": self.make, "backup_part": self.part}

    async def make(self, request: Request) -> Response:
        message = await parse(request, api.BackupMake)
        try:
            return respond(await self._backups.make(request.peer, message.passphrase))
        except OSError as error:
            detail = f"no backup was made: {error.filename or 'disk'}: {error.strerror}"
            raise Refused(Reason.LEDGER_UNAVAILABLE, detail, 503) from error

    async def part(self, request: Request) -> Response:
        offset = number(request, "from", default=0)
        part = await asyncio.to_thread(self._backups.part, request.match_info["id"], offset)
        if isinstance(part, Deny):
            raise Refused(part.reason, part.detail, 404)
        return respond(api.BackupPart(data=base64.b64encode(part).decode()))
