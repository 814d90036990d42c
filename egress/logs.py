"""Structured logs on stderr: one JSON object a line.

mitmproxy's own records may quote what was on the wire (heads, paths, a request in an assertion). Of its
exceptions only type and place are kept; below WARNING nothing is.
"""

from __future__ import annotations

import logging
import traceback

import structlog

from keyd import jsonlog


def configure() -> None:
    """Route structlog (from INFO) and the standard library (from WARNING) to stderr."""
    jsonlog.configure()
    # The level of the root stops mitmproxy, h2 and hpack from formatting records that nobody gets to see.
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)


class _ToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        level = "error" if record.levelno >= logging.ERROR else "warning"
        exception = record.exc_info[1] if record.exc_info else None
        if exception is not None:
            frame = traceback.extract_tb(exception.__traceback__)[-1:] or None
            where = f"{frame[0].filename.rpartition('/')[2]}:{frame[0].lineno}" if frame else "unknown"
            getattr(log, level)("egress.fault", type=type(exception).__name__, where=where)
        else:
            getattr(log, level)("egress.library", message=record.getMessage()[:300])
