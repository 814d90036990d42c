"""Logs when nobody takes them."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_log_that_nobody_takes_any_more_stops_nothing() -> None:
    program = (
        "import structlog; from keyd import logs; logs.configure()\n"
        "for n in range(3): structlog.get_logger('x').info('line', n=n)\n"
        "import logging; logging.getLogger('y').error('library')\n"
        "print('still here')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, timeout=30, check=False
    )
    os.close(writer)
    assert done.stdout == b"still here\n"


def test_a_log_is_one_json_object_a_line() -> None:
    program = (
        "import structlog; from keyd import logs; logs.configure(); structlog.get_logger('x').info('a\\nb')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=True)
    [line] = done.stderr.splitlines()
    assert line.startswith(b'{"event": "a\\nb"'.replace(b"\n", b"\\n"))
