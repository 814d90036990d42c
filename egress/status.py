"""What egress tells the service manager: that it is ready, whether it can pay, and that it still serves."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from keyd.service_manager import Notifier

_PROBE: Final = b"GET / HTTP/1.1\r\n\r\n"
"""Names no host, so it is answered with 400 here and goes nowhere."""
_PROBE_AGAIN_S: Final = 1.0

_log = structlog.get_logger("egress")


class Status:
    """The line in `systemctl status`, and the watchdog."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._address: tuple[str, int] | None = None
        self._keyd_answers: bool | None = None
        self._stopping = False

    def keyd_answers(self, answers: bool) -> None:
        self._keyd_answers = answers
        if self._address is not None:
            self._notifier.status(self._text())

    def ready(self, address: tuple[str, int]) -> None:
        self._address = address
        self._notifier.ready(self._text())

    def stopping(self) -> None:
        self._stopping = True
        self._notifier.stopping()

    async def keep_alive(self) -> None:
        """Feed the watchdog as long as a connection to the proxy is accepted and answered. Runs until cancelled."""
        await self._notifier.keep_alive(self._served)

    def _text(self) -> str:
        assert self._address is not None
        host, port = self._address
        keyd = "keyd answers" if self._keyd_answers else "keyd does not answer, so nothing is paid"
        return f"listens on {host}:{port}; {keyd}"

    async def _served(self) -> None:
        """Return when the proxy has answered a request. One that cannot be made, for want of descriptors for
        example, is made again: the watchdog's limit decides how long that may last."""
        while not self._stopping:
            try:
                await self._ask()
            except (OSError, asyncio.IncompleteReadError) as error:
                _log.warning("egress.watchdog.unanswered", error=str(error))
                await asyncio.sleep(_PROBE_AGAIN_S)
            else:
                return

    async def _ask(self) -> None:
        assert self._address is not None
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(_PROBE)
            await reader.readuntil(b"\r\n")
        finally:
            writer.close()
