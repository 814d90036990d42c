"""One JSON object a line on stderr, for every daemon. A log that nobody takes any more stops nothing.

journald may be restarted, or be gone at a forced shutdown: writing then fails with EPIPE, and that must not turn a
payment that was recorded into an error, nor end a proxy that still has streams to finish.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO, cast

import structlog

_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6}
"""Levels of syslog(3)."""


class Patient:
    """A text stream that loses what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


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
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, Patient(sys.stderr))),
        cache_logger_on_first_use=True,
    )
