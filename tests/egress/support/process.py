"""egress as a process of its own, as an administrator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_AS_PASSED = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "egress"}
os.execv(sys.argv[2], sys.argv[2:])
"""


class EgressProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ("", 0)
        self.log = ""

    async def event(self, name: str) -> dict[str, Any]:
        """The next log line `name`; what comes before it is kept in `log`."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log += line.decode()
            if line.startswith(b"{") and (entry := json.loads(line))["event"] == name:
                assert isinstance(entry, dict)
                return entry
        raise AssertionError(f"no {name} in:\n{self.log}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def stopped(self) -> int:
        """The exit code; `log` is complete then."""
        assert self.process.stderr is not None
        self.log += (await self.process.stderr.read()).decode()
        return await self.process.wait()


def toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@asynccontextmanager
async def egress_process(
    config: Path,
    *,
    until_ready: bool = True,
    umask: int = -1,
    environment: dict[str, str] | None = None,
    passed: socket.socket | None = None,
) -> AsyncIterator[EgressProcess]:
    """`passed`: handed over as systemd does (LISTEN_FDS)."""
    python, descriptors = [sys.executable], []
    if passed is not None:
        descriptors = [passed.fileno()]
        python += ["-c", _AS_PASSED, str(passed.fileno()), sys.executable]
    process = await asyncio.create_subprocess_exec(
        *(*python, "-m", "egress", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        umask=umask,
        env={**os.environ, **(environment or {})},
        pass_fds=descriptors,
    )
    egress = EgressProcess(process)
    try:
        if until_ready:
            ready = await egress.event("egress.ready")
            egress.address = (ready["host"], ready["port"])
        yield egress
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
