"""Logs when nobody takes them."""

from __future__ import annotations

import json
import os
import socket
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
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, timeout=60, check=False
    )
    os.close(writer)
    assert done.stdout == b"still here\n"


def test_a_log_is_one_json_object_a_line() -> None:
    program = (
        "import structlog; from keyd import logs; logs.configure(); structlog.get_logger('x').info('a\\nb')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    [line] = done.stderr.splitlines()
    assert line.startswith(b'{"event": "a\\nb"'.replace(b"\n", b"\\n"))


def test_a_line_is_written_in_one_piece_because_several_processes_may_share_the_stream() -> None:
    program = "import structlog; from keyd import logs; logs.configure(); structlog.get_logger('x').info('a')"
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run([sys.executable, "-c", program], stderr=there, env=environment, timeout=60, check=True)
        assert here.recv(65536).endswith(b"}\n")


LEVELS = (
    "import structlog, logging; from keyd import logs; logs.configure(); log = structlog.get_logger('x')\n"
    "log.info('a'); log.warning('b'); log.error('c'); logging.getLogger('y').error('d')"
)


def test_journald_is_told_the_level_of_each_line() -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    subprocess.run([sys.executable, "-c", LEVELS], stderr=writer, env=environment, timeout=60, check=True)
    os.close(writer)
    with os.fdopen(reader) as journal:
        lines = journal.read().splitlines()
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>", "<3>"]
    assert [json.loads(line[3:])["event"] for line in lines] == ["a", "b", "c", "d"]


def test_whoever_reads_it_otherwise_gets_json_alone() -> None:
    """The variable is inherited by programs whose stderr is a file."""
    environment = {**os.environ, "JOURNAL_STREAM": "8:12345"}
    done = subprocess.run(
        [sys.executable, "-c", LEVELS], capture_output=True, env=environment, timeout=60, check=True
    )
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["a", "b", "c", "d"]
