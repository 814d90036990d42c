"""Starts programs, waits until each says that it is ready, and leaves none running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BIN = Path(sys.executable).parent
"""Where this environment's commands are: keyctl, osmoda-keyd, osmoda-egress."""
START_S = 120.0
"""Deadline for getting ready: it ends what hangs. Alone each needs one second or two; a machine may be slow and busy."""
STOP_S = 30.0
"""Time between SIGTERM and SIGKILL: a program that cannot stop by then is stuck."""
_POLL_S = 0.02


class ProgramFailed(Exception):
    """A program ended, or said nothing, before it was ready. The text has the end of its log."""


class Program:
    """A program in a process group of its own, with one log file for all its output.

    Ready is a JSON line in the log whose `event` is `<name>.ready`: every program here picks a free port by
    itself and says which, so that nobody has to guess one that may be taken by the time it is used.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(word) for word in command]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        """The fields of the line that says ready. Raises ProgramFailed."""
        with self.log.open("ab") as output, _signals_held_back():
            before = output.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self._env is None else {**os.environ, **self._env},
                start_new_session=True,
            )
        try:
            return self._wait_until_ready(before)
        except BaseException:
            self.kill()
            raise

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def stop(self) -> int | None:
        """Asks it to stop, waits, and ends what is left of its group. Its exit code, None if it never ran."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not stop within {STOP_S:.0f} s: killed", file=sys.stderr)
        return self.kill()

    def kill(self) -> int | None:
        """SIGKILL to the whole group, now: nothing gets to say goodbye."""
        if self._process is None:
            return None
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_ready(self, start: int) -> dict[str, Any]:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            ended = not self.running  # looked at first: what it wrote before it ended is still read
            if fields := self._find_ready(start):
                return fields
            if ended:
                raise ProgramFailed(f"{self.name} ended before it was ready:\n{self._tail()}")
            time.sleep(_POLL_S)
        raise ProgramFailed(f"{self.name} was not ready after {START_S:.0f} s:\n{self._tail()}")

    def _find_ready(self, start: int) -> dict[str, Any] | None:
        with self.log.open("rb") as log:
            log.seek(start)
            for line in log:
                if line.startswith(b"{") and line.endswith(b"}\n"):
                    fields: dict[str, Any] = json.loads(line)
                    if fields.get("event") == f"{self.name}.ready":
                        return fields
        return None

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """An interrupt between the start of a process and the note that it was started would leave it running.

    Python's handlers hold it back; blocked signals would be inherited by the process, which then never stops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are delivered to the main thread alone
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for held_back in came:
        signal.raise_signal(held_back)
