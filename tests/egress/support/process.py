"""egress as a process of its own, as an administrator runs it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


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
    config: Path, *, until_ready: bool = True, umask: int = -1
) -> AsyncIterator[EgressProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "egress", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        umask=umask,
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
