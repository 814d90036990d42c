"""One JSON object a line on stderr, for every daemon. A log that nobody takes, or nobody takes any more, stops nothing.

journald may be restarted, or be gone at a forced shutdown: writing then fails with EPIPE, and that must not turn a
payment that was recorded into an error, nor end a proxy that still has streams to finish.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Final, TextIO, cast

import structlog

_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6}
"""Levels of syslog(3)."""


MAX_WAITING: Final = 1024 * 1024
"""Characters that wait for a log that nobody reads: some thousand lines, more than a restart of journald takes."""
END_LIMIT_S: Final = 1.0
"""How long a program that ends waits for who reads its log."""


class Patient:
    """A text stream that never waits for who reads it, and loses only what cannot be written.

    What a pipe or socket takes is written at once, so that a crash loses no line. While nobody reads (a stopped
    journald, a parent that forgot its pipe), lines wait for a thread of their own, and beyond `MAX_WAITING` they are counted.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._size = 0
        self._lost = 0
        self._writer: threading.Thread | None = None
        atexit.register(self.end)

    def write(self, text: str) -> int:
        with self._lock:
            if self._writer is None and _takes(self._stream, text):
                with contextlib.suppress(OSError, ValueError):  # ValueError: closed
                    self._stream.write(text)
                    self._stream.flush()
            elif self._size + len(text) > MAX_WAITING:
                self._lost += 1
            else:
                self._wait_with(text)
        return len(text)

    def flush(self) -> None:
        """`write` has."""

    def _wait_with(self, text: str) -> None:
        self._waiting.append(text)
        self._size += len(text)
        if self._writer is None:
            self._writer = threading.Thread(target=self._catch_up, name="log", daemon=True)
            self._writer.start()

    def _catch_up(self) -> None:
        while (text := self._next()) is not None:
            left = text.encode("utf-8", "backslashreplace")
            # Past the stream: it has a lock, on which the end of the program would wait.
            with contextlib.suppress(OSError, ValueError):
                while left:
                    left = left[os.write(self._stream.fileno(), left) :]

    def _next(self) -> str | None:
        with self._lock:
            if self._waiting:
                text = self._waiting.popleft()
                self._size -= len(text)
                return text
            if self._lost:
                lines, self._lost = self._lost, 0
                lost = {"event": "log.lost", "lines": lines, "level": "warning"}
                return str(line()(None, "warning", lost)) + "\n"
            self._writer = None
            return None

    def end(self) -> None:
        """Give who reads a moment for what waits. At the end of a program, Python calls it by itself."""
        if (writer := self._writer) is not None:
            writer.join(END_LIMIT_S)


def _takes(stream: TextIO, text: str) -> bool:
    """Whether `text` can be written without waiting."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no file: it lies in memory, or is closed
        return True
    if len(text) > select.PIPE_BUF:  # a pipe may take a part of it, and wait with the rest
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    return bool(ready.poll(0))


class Line:
    """The last processor of structlog: JSON, and for journald its level in front (sd-daemon(3)).

    Without it every line has PRIORITY 6, and `journalctl -p warning` is empty whatever happens.
    """

    def __init__(self, *, for_journal: bool) -> None:
        self._for_journal = for_journal
        self._render = structlog.processors.JSONRenderer()

    def __call__(self, logger: object, name: str, event: structlog.typing.EventDict) -> str:
        priority = _PRIORITIES.get(event.get("level", ""), 6)
        line = str(self._render(logger, name, event))
        return f"<{priority}>{line}" if self._for_journal else line


def is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether journald reads `descriptor`: systemd names the device and inode that it made in JOURNAL_STREAM
    (systemd.exec(5)). The variable alone says nothing, since children inherit it and have their output elsewhere."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def line() -> Line:
    """For this process's stderr."""
    return Line(for_journal=is_journal(os.environ, 2))


def complain(program: str, error: str, hint: str) -> None:
    """What ends a daemon, for people: `PROGRAM: error: …` and `PROGRAM: hint: …` on stderr, errors in the journal."""
    level = "<3>" if is_journal(os.environ, 2) else ""
    for kind, text in (("error", error), ("hint", hint)):
        print(f"{level}{program}: {kind}: {text}", file=sys.stderr)


def stderr() -> Patient:
    """Of this process: all that it logs goes one way, in order."""
    return _patient(sys.stderr)


_patient = cache(Patient)


def configure() -> None:
    """Sends structlog's records from level INFO on to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            line(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stderr())),
        cache_logger_on_first_use=True,
    )
