"""`osmoda-keyd --config FILE`: opens wallets and ledger, answers on the Unix socket, stops on SIGTERM.

Under systemd the socket is the one that it passes, and systemd is told when keyd can answer and that it still does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

import structlog

from keyd import config, jsonlog, logs
from keyd.admin import Admin
from keyd.configfile import ConfigError
from keyd.custody import kek, passphrase
from keyd.custody.backup import Backups
from keyd.custody.headkey import HeadKeyFile
from keyd.custody.keystore import Keystore
from keyd.custody.rotation import Rotation
from keyd.custody.wallets import Custody
from keyd.heads import Heads
from keyd.http.listener import Listener
from keyd.http.quotas import Quotas, shares
from keyd.peer import Roles
from keyd.policies import Policies
from keyd.process import (
    descriptor_limit,
    forbid_dumps,
    lock_memory,
    overwrites_freed_memory,
    raise_descriptor_limit,
)
from keyd.server import Server
from keyd.service import Service
from keyd.service_manager import Notifier, unix_listener
from keyd.setup import refuse_lost_ledger
from ledger.errors import LedgerError
from ledger.log import Ledger

EXIT_CONFIG: Final = 2

log = structlog.get_logger("keyd")


def main() -> None:
    """Exit code 2: the configuration, key or ledger cannot be used, and the message says what to do."""
    parser = argparse.ArgumentParser(prog="osmoda-keyd", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/etc/osmoda/keyd.toml"), metavar="FILE")
    parser.add_argument("--version", action="version", version=version("osmoda-x402"))
    parser.add_argument(
        "--passphrase-fd", type=int, metavar="N", help="file descriptor to read the key's passphrase from"
    )
    arguments = parser.parse_args()
    forbid_dumps()
    raise_descriptor_limit()
    logs.configure()
    if not lock_memory():
        log.info("keyd.memory.not_locked", why="LimitMEMLOCK is not infinity; keep keyd out of swap")
    if not overwrites_freed_memory(os.environ):
        log.info("keyd.memory.not_overwritten", why="Environment= of osmoda-keyd.service is not set")
    try:
        settings = config.load(arguments.config)
        ask = partial(passphrase.ask, arguments.passphrase_fd, os.environ)
        asyncio.run(serve(settings, arguments.config, kek.load(settings.kek_file, os.environ, ask)))
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
    roles = Roles.resolve(settings.peers)
    refuse_lost_ledger(settings)
    ledger = Ledger.open(settings.ledger_file, clock=clock_us)  # its lock keeps a second keyd out
    try:
        head_key = HeadKeyFile(settings.ledger_key_file, secrets.token_bytes)
        heads = Heads(ledger, head_key.load_or_create(source.kek), settings.ledger_heads_file)
        policies = Policies(settings.policy(), limits=settings.limits(), enforce=settings.x402.enforce)
        custody = Custody(
            ledger=ledger,
            keystore=Keystore(settings.wallet_dir, source.kek, secrets.token_bytes),
            initial_default=settings.x402.default_wallet_label,
            entropy=secrets.token_bytes,
        )
        rotation = Rotation(
            ledger=ledger,
            custody=custody,
            source=source,
            entropy=secrets.token_bytes,
            head_key=head_key,
        )
        service = Service(
            ledger=ledger,
            custody=custody,
            policies=policies,
            entropy=secrets.token_bytes,
            proof_sources=settings.x402.proof_sources,
        )
        admin = Admin(
            ledger=ledger,
            policies=policies,
            overrides_file=settings.state_dir / "overrides.toml",
            entropy=secrets.token_bytes,
        )
        backups = Backups(
            ledger=ledger,
            custody=custody,
            state_dir=settings.state_dir,
            config_file=config_file,
            entropy=secrets.token_bytes,
        )
        backups.sweep()
        server = Server(service, admin, rotation, backups, roles, clock_us, heads)
        await service.record("keyd", "keyd.started", {"version": version("osmoda-x402")})
        await rotation.at_start()
        await custody.take_stock()
        await admin.record_base(settings.x402.model_dump(mode="json"))
        admin.write_file()
        listener = passed or listen(settings.socket, int(settings.socket_mode, 8))
        connections = Listener(server.answer, Quotas(roles, shares(descriptor_limit())), clock_us)
        connections.start(listener)
        path = listener.getsockname()
        log.info("keyd.ready", socket=path, problems=service.problems())
        notifier.ready(f"answers on {path}; `keyctl health` says whether it can pay")
        alive = asyncio.create_task(notifier.keep_alive(lambda: _writer_answers(ledger)), name="watchdog")
        signing = asyncio.create_task(heads.keep_signing(time.monotonic), name="heads")
        await _stop_signal()
        log.info("keyd.stopping")
        notifier.stopping()
        await connections.close()  # no new requests; those in flight are answered
        alive.cancel()
        signing.cancel()
        await service.record("keyd", "keyd.stopped", {})
        await heads.sign_if_possible()
    finally:
        ledger.close()


def listen(path: Path, mode: int) -> socket.socket:
    """A listening Unix socket; one that a dead keyd left behind is replaced. Raises ConfigError if one answers."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)  # for peers of other users; the socket's own mode says who may connect
    if _answers(path):
        hint = "stop the other keyd, or give this one its own `socket` in keyd.toml"
        raise ConfigError(f"another keyd answers on {path}", hint)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)  # nobody may connect before the mode is right
    try:
        listener.bind(str(path))
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.umask(previous)
    path.chmod(mode)
    return listener


def _answers(path: Path) -> bool:
    """Taking the socket of a keyd that lives (with another ledger) would send its clients to us, unawares."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


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
