"""Logs when nobody takes them."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TextIO


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
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, timeout=240, check=False
    )
    os.close(writer)
    assert done.stdout == b"still here\n"


def small_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


@contextmanager
def logging_to_nobody(program: str) -> Iterator[tuple[IO[bytes], TextIO]]:
    """The standard input and the log of `program`, which has said that it is still here; nothing of the log was read."""
    reader, writer = small_pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer
    ) as process:
        os.close(writer)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"still here\n"
        with os.fdopen(reader) as log:
            yield process.stdin, log


def test_a_log_that_nobody_reads_for_a_while_stops_nothing_and_loses_nothing() -> None:
    program = (
        "import structlog, sys; from keyd import logs; logs.configure()\n"
        "for n in range(500): structlog.get_logger('x').info('line', n=n)\n"
        "print('still here', flush=True); sys.stdin.read()\n"
        "structlog.get_logger('x').info('line', n=500)"
    )
    with logging_to_nobody(program) as (stdin, log):
        stdin.close()
        assert [json.loads(line)["n"] for line in log] == list(range(501))


def test_a_log_that_nobody_reads_at_all_is_cut_and_says_by_how_much() -> None:
    program = (
        "import structlog, sys; from keyd import jsonlog, logs; jsonlog.MAX_WAITING = 10_000; logs.configure()\n"
        "for n in range(500): structlog.get_logger('x').info('line', n=n)\n"
        "print('still here', flush=True); sys.stdin.read()"
    )
    with logging_to_nobody(program) as (stdin, log):
        stdin.close()
        *lines, last = map(json.loads, log)
    numbers = [line["n"] for line in lines]
    assert numbers == sorted(set(numbers))
    assert 30 < len(numbers) < 300
    assert (last["event"], last["lines"]) == ("log.lost", 500 - len(numbers))


def test_an_unread_log_delays_the_end_of_a_program_by_little() -> None:
    program = (
        "import structlog; from keyd import logs; logs.configure()\n"
        "for n in range(500): structlog.get_logger('x').info('line', n=n)"
    )
    reader, writer = small_pipe()
    done = subprocess.run([sys.executable, "-c", program], stderr=writer, timeout=30, check=True)
    os.close(writer)
    os.close(reader)
    assert done.returncode == 0


def test_a_log_is_one_json_object_a_line() -> None:
    program = (
        "import structlog; from keyd import logs; logs.configure(); structlog.get_logger('x').info('a\\nb')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=240, check=True)
    [line] = done.stderr.splitlines()
    assert line.startswith(b'{"event": "a\\nb"'.replace(b"\n", b"\\n"))


def test_a_line_is_written_in_one_piece_because_several_processes_may_share_the_stream() -> None:
    program = "import structlog; from keyd import logs; logs.configure(); structlog.get_logger('x').info('a')"
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run(
            [sys.executable, "-c", program], stderr=there, env=environment, timeout=240, check=True
        )
        assert here.recv(65536).endswith(b"}\n")


LEVELS = (
    "import structlog, logging; from keyd import logs; logs.configure(); log = structlog.get_logger('x')\n"
    "log.info('a'); log.warning('b'); log.error('c'); logging.getLogger('y').error('d')"
)


def test_journald_is_told_the_level_of_each_line() -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    subprocess.run([sys.executable, "-c", LEVELS], stderr=writer, env=environment, timeout=240, check=True)
    os.close(writer)
    with os.fdopen(reader) as journal:
        lines = journal.read().splitlines()
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>", "<3>"]
    assert [json.loads(line[3:])["event"] for line in lines] == ["a", "b", "c", "d"]


def test_whoever_reads_it_otherwise_gets_json_alone() -> None:
    """The variable is inherited by programs whose stderr is a file."""
    environment = {**os.environ, "JOURNAL_STREAM": "8:12345"}
    done = subprocess.run(
        [sys.executable, "-c", LEVELS], capture_output=True, env=environment, timeout=240, check=True
    )
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["a", "b", "c", "d"]
