"""What a service manager and a daemon tell each other: sockets passed on, readiness, watchdog.

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). Without a service manager nothing happens.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from typing import Final, NamedTuple, NoReturn

from keyd.configfile import ConfigError

_FIRST_PASSED: Final = 3  # SD_LISTEN_FDS_START


class Passed(NamedTuple):
    """A socket that the service manager bound."""

    name: str
    """FileDescriptorName= of its unit, by default the name of the unit."""
    socket: socket.socket


def passed_sockets(environment: Mapping[str, str]) -> list[Passed]:
    """The sockets meant for this process (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES), in order.

    Call it once: each call makes new owners of the same descriptors. Raises ConfigError if what is passed
    does not fit together.
    """
    # Unset, or inherited from a parent that it was meant for.
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "")
    names = environment["LISTEN_FDNAMES"].split(":") if environment.get("LISTEN_FDNAMES") else []
    if not (count.isascii() and count.isdecimal()) or len(names) != int(count):
        raise ConfigError(
            f"LISTEN_FDS={count} and LISTEN_FDNAMES={':'.join(names)} do not fit together",
            "let systemd set them, by a socket unit of the same name as the service",
        )
    passed = []
    for descriptor, name in enumerate(names, start=_FIRST_PASSED):
        try:
            os.set_inheritable(descriptor, False)
            passed.append(Passed(name, socket.socket(fileno=descriptor)))
        except OSError as error:
            raise ConfigError(
                f"descriptor {descriptor} ({name}) is no socket: {error.strerror}",
                "pass sockets only, by Sockets= and a socket unit",
            ) from None
    return passed


def unix_listener(environment: Mapping[str, str]) -> socket.socket | None:
    """The one listening AF_UNIX stream socket that was passed, or None if none was. Raises ConfigError.

    Any other socket is refused: callers are told apart by SO_PEERCRED, which TCP does not have.
    """
    passed = passed_sockets(environment)
    if not passed:
        return None
    if len(passed) > 1:
        _refuse(", ".join(name for name, _ in passed), "more than one socket")
    name, listener = passed[0]
    if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        _refuse(name, "not a Unix stream socket")
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        _refuse(name, "a connection, not a listening socket")
    return listener


def _refuse(name: str, what: str) -> NoReturn:
    raise ConfigError(
        f"the service manager passed {what} ({name})",
        "keep one ListenStream=/path in the socket unit, and Accept=no",
    )


class Notifier:
    """Sends state to NOTIFY_SOCKET; without one every call does nothing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = environment.get("WATCHDOG_USEC", "") if watched else ""
        self.watchdog_s = int(limit) / 1e6 if limit.isascii() and limit.isdecimal() and int(limit) else None
        """Seconds after which a silent daemon is killed; None if nobody watches."""

    def ready(self, status: str) -> None:
        """The daemon can answer now; `status` is for people (`systemctl status`), one line."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Another line for people."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")

    async def keep_alive(self, probe: Callable[[], Awaitable[object]]) -> None:
        """Sends WATCHDOG=1 after each answer of `probe`, every half of the limit, until cancelled.

        A probe that never returns stops it, so the service manager restarts the daemon. Ends at once if nobody watches.
        """
        while self.watchdog_s is not None:
            await probe()
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _send(self, state: str) -> None:
        """A manager that is gone or stuck must not hold up payments; one that misses READY or WATCHDOG acts by itself."""
        if not self._address:
            return
        with suppress(OSError), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            sender.connect(self._address)
            sender.send(state.encode())
