"""keyd's logs: its own records from INFO on, those of its libraries from WARNING on."""

from __future__ import annotations

import logging

import structlog

from keyd import jsonlog


def configure() -> None:
    jsonlog.configure()
    handler = logging.StreamHandler(jsonlog.stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                jsonlog.line(),
            ],
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
