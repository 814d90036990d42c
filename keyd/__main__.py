"""`osmoda-keyd --config FILE`: opens wallets and ledger, answers on the Unix socket, stops on SIGTERM.

Under systemd the socket is the one that it passes, and systemd is told when keyd can answer and that it still does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

import structlog

from keyd import config, jsonlog, logs
from keyd.assembly import assemble
from keyd.configfile import ConfigError
from keyd.custody import kek, passphrase
from keyd.files import sweep_temporary
from keyd.http.listener import Listener
from keyd.http.quotas import Quotas, shares
from keyd.http.unix_socket import listen
from keyd.peer import Roles
from keyd.process import (
    descriptor_limit,
    forbid_dumps,
    lock_memory,
    overwrites_freed_memory,
    raise_descriptor_limit,
)
from keyd.service_manager import Notifier, unix_listener
from keyd.setup import key_in_force, refuse_lost_ledger
from ledger.errors import LedgerError
from ledger.log import Ledger

EXIT_CONFIG: Final = 2

log = structlog.get_logger("keyd")


def main() -> None:
    """Exit code 2: the configuration, key or ledger cannot be used, and the message says what to do."""
    parser = argparse.ArgumentParser(
        prog="osmoda-keyd",
        description="Daemon that decides on payments, records and signs them; keyctl sets it up and questions it.",
        epilog="Exit code 2: configuration, key or ledger cannot be used, and the message says what to do.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("/etc/osmoda/keyd.toml"),
        metavar="FILE",
        help="configuration file (default: %(default)s); `osmoda-keyctl check-config` checks it",
    )
    parser.add_argument("--version", action="version", version=version("osmoda-x402"))
    parser.add_argument(
        "--passphrase-fd", type=int, metavar="N", help="file descriptor to read the key's passphrase from"
    )
    arguments = parser.parse_args()
    forbid_dumps()
    raise_descriptor_limit()
    logs.configure()
    if not lock_memory():
        log.info(
            "keyd.memory.not_locked",
            why="LimitMEMLOCK is not infinity, and keyd has no CAP_IPC_LOCK; keep it out of swap",
        )
    if not overwrites_freed_memory(os.environ):
        log.info("keyd.memory.not_overwritten", why="Environment= of osmoda-keyd.service is not set")
    try:
        settings = config.load(arguments.config)
        ask = partial(passphrase.ask, arguments.passphrase_fd, os.environ)
        asyncio.run(serve(settings, arguments.config, key_in_force(settings, os.environ, ask)))
    except (ConfigError, kek.KekError, LedgerError) as error:
        fail(str(error), error.hint)
    except OSError as error:
        fail(
            f"{error.filename or 'socket'}: {error.strerror}", "check the path's owner and mode in keyd.toml"
        )


def fail(message: str, hint: str) -> NoReturn:
    jsonlog.complain("osmoda-keyd", message, hint)
    sys.exit(EXIT_CONFIG)


async def serve(settings: config.Settings, config_file: Path, source: kek.Source) -> None:
    """Runs until SIGTERM or SIGINT. Raises ConfigError, LedgerError, OSError before it listens."""
    notifier = Notifier(os.environ)
    passed = unix_listener(os.environ)
    roles = Roles.resolve(settings.peers)  # before anything is made on disk
    refuse_lost_ledger(settings)
    ledger = Ledger.open(settings.ledger_file, clock=clock_us)  # its lock keeps a second keyd out
    try:
        daemon = assemble(settings, config_file, source, ledger, roles, clock_us)
        daemon.backups.sweep()
        sweep_temporary(settings.state_dir)
        await daemon.service.record("keyd", "keyd.started", {"version": version("osmoda-x402")})
        if daemon.heads.succeeds_another:
            await daemon.heads.sign_if_possible()
        await daemon.rotation.at_start()
        await daemon.service.custody.take_stock()
        await daemon.admin.record_base(settings.x402.model_dump(mode="json"))
        daemon.admin.write_file()
        listener = passed or listen(settings.socket, int(settings.socket_mode, 8))
        quotas = Quotas(roles, shares(descriptor_limit()))
        connections = Listener(daemon.server.answer, quotas, clock_us)
        connections.start(listener)
        path = listener.getsockname()
        log.info("keyd.ready", socket=path, problems=daemon.service.problems())
        gc.freeze()  # modules and tables stay: the collector need not look at them again
        notifier.ready(f"answers on {path}; `osmoda-keyctl health` says whether it can pay")
        alive = asyncio.create_task(notifier.keep_alive(lambda: _writer_answers(ledger)), name="watchdog")
        signing = asyncio.create_task(daemon.heads.keep_signing(time.monotonic), name="heads")
        await _stop_signal()
        log.info("keyd.stopping")
        notifier.stopping()
        await connections.close()  # no new requests; those in flight are answered
        alive.cancel()
        signing.cancel()
        await daemon.service.record("keyd", "keyd.stopped", {})
        await daemon.heads.sign_if_possible()
    finally:
        ledger.close()


def clock_us() -> int:
    """Unix time in microseconds."""
    return time.time_ns() // 1000


async def _writer_answers(ledger: Ledger) -> None:
    """Returns when the ledger's writer thread has taken a step that appends nothing: it is not stuck.

    A full disk is an answer too: keyd refuses payments then, and a restart would mend nothing.
    """
    with suppress(LedgerError):
        await asyncio.wrap_future(ledger.transact(lambda _: None))


async def _stop_signal() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    main()
