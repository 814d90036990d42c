"""The part of a service manager that is told of states: sd_notify(3)."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path


class Manager:
    """The socket that the service manager reads states from."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(path)}

    async def next(self, *, but: str = "WATCHDOG=1") -> str:
        """The next message other than `but`."""
        while True:
            message = (await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode()
            if message != but:
                return message

    def close(self) -> None:
        self._socket.close()
