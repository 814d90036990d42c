"""What a process costs, as /proc tells it (proc(5)), and processes that are measured from inside."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes), shared pages included."""
    return _status_kb(pid, "VmRSS") * 1024 / 1e6


def peak_mb(pid: int) -> float:
    """The most it ever had, in MB."""
    return _status_kb(pid, "VmHWM") * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """User and system time of the process, in seconds; a clock tick is 10 ms, so measure over a second or more."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _status_kb(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has no {name}")


class Worker:
    """A program that answers each line of JSON on its standard input with one on its standard output.

    Peers that need an interpreter of their own run in one, warm, from the first round to the last.
    """

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if env is None else {**os.environ, **env},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Any) -> Any:
        """Raises EOFError if the program has ended; its last words are on our standard error."""
        stdin, stdout = self._pipes()
        print(json.dumps(question), file=stdin, flush=True)
        if not (line := stdout.readline()):
            raise EOFError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(line)

    def figures(self, question: Any) -> list[float]:
        return [float(figure) for figure in self.ask(question)]

    def close(self) -> None:
        stdin, stdout = self._pipes()
        stdin.close()  # the programs end at the end of their input
        stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("both are pipes")
        return stdin, stdout
