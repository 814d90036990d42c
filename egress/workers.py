"""Several egress processes on one socket: what starts them, watches them, and stops them.

To its workers this process is what systemd is to a daemon: it passes the sockets, is told of readiness (sd_notify(3)),
and ends a worker that has been silent for longer than the watchdog's limit. All accept from the same sockets, so a
connection that waits is taken by whoever is free and has fewest (egress.loads), and none is lost with a worker that ends.
The budget is keyd's.

It never imports the proxy: it has to live while a worker may not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from egress.loads import Loads
from keyd.service_manager import Notifier

SILENCE_LIMIT_S: Final = 30.0
"""After this long without a word a worker is ended, unless the service manager sets a limit of its own."""
START_LIMIT_S: Final = 90.0
"""As long a worker may take until it is ready, whatever the limit afterwards: systemd's own TimeoutStartSec=. A machine
on which the start takes longer than the watchdog's limit would otherwise start workers for ever."""
_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Before a worker that ended is started again; the next one for each time in a row that it was never ready."""
_EXIT_CONFIG: Final = 2
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid

_log = structlog.get_logger("egress")


@dataclass
class _Worker:
    number: int
    process: asyncio.subprocess.Process
    scraped: Path
    """The Unix socket on which it tells its figures."""
    heard_at: float
    ready: bool = False


class Workers:
    """`await Workers(…).run()` until a signal has stopped them all."""

    def __init__(
        self, config_file: Path, count: int, sockets: Sequence[socket.socket], notifier: Notifier
    ) -> None:
        self._config_file = config_file
        self._count = count
        self._sockets = list(sockets)
        self._notifier = notifier
        self._loads_descriptor = Loads.make(count)
        self._loads = Loads(self._loads_descriptor)
        self._limit_s = notifier.watchdog_s or SILENCE_LIMIT_S
        self._live: dict[int, _Worker] = {}
        """By process id."""
        self._serving = asyncio.Event()
        """Set while a worker is ready."""
        self._announced = False
        self._stopping = asyncio.Event()
        self._failure = 0
        self._restarts = 0

    async def run(self) -> int:
        """The exit code: 0, or that of a worker that could not use the configuration."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        alive = asyncio.create_task(self._notifier.keep_alive(self._serving.wait), name="watchdog")
        with (
            tempfile.TemporaryDirectory(prefix="osmoda-egress-") as folder,
            _listening(Path(folder)) as heard,
        ):
            loop.add_reader(heard, self._hear, heard)
            try:
                await asyncio.gather(*(self._keep(number, Path(folder)) for number in range(self._count)))
            finally:
                loop.remove_reader(heard)
                alive.cancel()
        return self._failure

    def stop(self) -> None:
        """Let the workers finish what is under way, as one egress does; a second call stops them now."""
        now = self._stopping.is_set()
        if not now:
            self._stopping.set()
            self._notifier.stopping()
            for sock in self._sockets:
                sock.close()
        for worker in self._live.values():
            # SIGTERM is idempotent in a worker: a service manager may have sent one to the whole group.
            _send(worker.process, signal.SIGINT if now else signal.SIGTERM)

    # -- one worker -----------------------------------------------------------------------------------------

    async def _keep(self, number: int, folder: Path) -> None:
        """Start worker `number`, and start it again whenever it ends, until everything stops."""
        failures = 0
        while not self._stopping.is_set():
            worker = await self._start(number, folder)
            await self._watch(worker)
            code = worker.process.returncode
            if self._stopping.is_set():
                return
            _log.error("egress.worker.ended", worker=number, pid=worker.process.pid, code=code)
            if code == _EXIT_CONFIG:  # it has said what is wrong, and the others would say the same
                self._failure = _EXIT_CONFIG
                self.stop()
                return
            self._restarts += 1
            failures = 0 if worker.ready else failures + 1
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)]):
                    await self._stopping.wait()

    async def _start(self, number: int, folder: Path) -> _Worker:
        scraped = folder / f"worker-{number}"
        scraped.unlink(missing_ok=True)  # of the one that this one replaces
        descriptors = [sock.fileno() for sock in self._sockets]
        sockets = [f"--worker-socket={descriptor}" for descriptor in descriptors]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "egress"),  # -P: not from this folder
            *("--config", str(self._config_file)),
            *(f"--worker-of={os.getpid()}", f"--worker-number={number}", f"--worker-metrics={scraped}"),
            *(f"--worker-loads={self._loads_descriptor}", *sockets),
            pass_fds=[*descriptors, self._loads_descriptor],
            env=self._environment(folder),
            start_new_session=True,  # Ctrl-C is for this process, which tells them
        )
        worker = _Worker(number, process, scraped, asyncio.get_running_loop().time())
        self._live[process.pid] = worker
        if self._stopping.is_set():  # stopped while this one was being born
            _send(process, signal.SIGTERM)
        return worker

    def _environment(self, folder: Path) -> dict[str, str]:
        passed_on = {
            key: value for key, value in os.environ.items() if not key.startswith(("LISTEN_", "WATCHDOG_"))
        }
        limit_us = int(self._limit_s * 1e6)
        return {**passed_on, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(limit_us)}

    async def _watch(self, worker: _Worker) -> None:
        """Return when the worker has ended; end it if it is silent for too long."""
        loop = asyncio.get_running_loop()
        while worker.process.returncode is None:
            with suppress(TimeoutError):
                # One that is not ready is looked at again and again: from its readiness on the shorter limit holds.
                since = worker.heard_at if worker.ready else loop.time()
                async with asyncio.timeout_at(since + self._limit_s):
                    await worker.process.wait()
            limit_s = self._patience_s(worker)
            if worker.process.returncode is None and loop.time() >= worker.heard_at + limit_s:
                _log.error("egress.worker.silent", pid=worker.process.pid, seconds=limit_s)
                _send(worker.process, signal.SIGKILL)
                await worker.process.wait()
        del self._live[worker.process.pid]
        self._loads.leave(worker.number)
        self._count_ready()

    def _patience_s(self, worker: _Worker) -> float:
        """How long it may be silent."""
        return self._limit_s if worker.ready else max(self._limit_s, START_LIMIT_S)

    # -- what is told of them --------------------------------------------------------------------------------

    async def exposition(self) -> bytes:
        """The figures of all workers, and how they fare, in the text format of Prometheus."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        from egress.scrape import of_workers

        live = sorted(self._live.values(), key=lambda worker: worker.number)
        ready = GaugeMetricFamily(
            "osmoda_egress_workers_ready", "Workers that serve.", sum(worker.ready for worker in live)
        )
        restarts = CounterMetricFamily(
            "osmoda_egress_worker_restarts", "Workers that ended without being told to.", self._restarts
        )
        return await of_workers({worker.number: worker.scraped for worker in live}, [ready, restarts])

    # -- what they say --------------------------------------------------------------------------------------

    def _hear(self, heard: socket.socket) -> None:
        with suppress(BlockingIOError):
            message, ancillary, *_ = heard.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
            # The kernel says who has sent it: nobody else can speak for a worker.
            pid = next((_CREDENTIALS.unpack(data)[0] for *_, data in ancillary), 0)
            if (worker := self._live.get(pid)) is not None:
                self._note(worker, message.decode().split("\n"))

    def _note(self, worker: _Worker, said: list[str]) -> None:
        worker.heard_at = asyncio.get_running_loop().time()
        worker.ready = worker.ready or "READY=1" in said
        self._count_ready()
        for line in said:
            if line.startswith("STATUS=") and not self._stopping.is_set():
                self._tell(line.removeprefix("STATUS="))

    def _count_ready(self) -> None:
        if any(worker.ready for worker in self._live.values()):
            self._serving.set()
        else:
            self._serving.clear()

    def _tell(self, text: str) -> None:
        ready = sum(worker.ready for worker in self._live.values())
        status = f"{ready} of {self._count} workers; {text}"
        if self._announced:
            self._notifier.status(status)
        elif ready == self._count:
            self._announced = True
            self._notifier.ready(status)
            host, port, *_ = self._sockets[0].getsockname()
            _log.info("egress.workers.ready", host=host, port=port, pids=sorted(self._live))


def _listening(folder: Path) -> socket.socket:
    """The socket `notify` in `folder`, on which every message comes with its sender's process id."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    heard.setblocking(False)
    heard.bind(str(folder / "notify"))
    return heard


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # ended meanwhile
        process.send_signal(number)
