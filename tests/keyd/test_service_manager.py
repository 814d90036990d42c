"""Sockets passed on, readiness and watchdog, with the test in the part of the service manager."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import tomli_w

from keyd.__main__ import _writer_answers
from keyd.client import KeydClient
from keyd.service_manager import Notifier
from ledger.log import Ledger

EXEC_WITH_SOCKETS = """
import os, sys
for place, descriptor in enumerate(map(int, filter(None, sys.argv[1].split(","))), start=3):
    os.dup2(descriptor, place, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[2]))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
"""What systemd does after fork: the sockets from descriptor 3 on, and LISTEN_PID, here plus an offset."""

LISTENER = """
import os
from keyd.configfile import ConfigError
from keyd.service_manager import unix_listener
try:
    listener = unix_listener(os.environ)
    print("none" if listener is None else f"{listener.getsockname()} {listener.get_inheritable()}")
except ConfigError as error:
    print(error)
"""


@asynccontextmanager
async def started(
    program: Sequence[str], sockets: Sequence[socket.socket], variables: dict[str, str], pid_offset: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    high = [fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 100) for s in sockets]  # clear of 3, 4, … in the child
    names = ":".join(["keyd", "other"][: len(sockets)])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EXEC_WITH_SOCKETS, ",".join(map(str, high)), str(pid_offset), *program),
        pass_fds=high,
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    for descriptor in high:
        os.close(descriptor)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def listener(*sockets: socket.socket, pid_offset: int = 0, **variables: str) -> str:
    """What a daemon makes of the sockets passed to it."""
    async with started(["-c", LISTENER], sockets, variables, pid_offset) as process:
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode().strip()


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(str(tmp_path / "keyd.sock"))
        bound.listen()
        yield bound


async def test_the_passed_socket_is_used_and_no_child_would_inherit_it(unix: socket.socket) -> None:
    assert await listener(unix) == f"{unix.getsockname()} False"


async def test_without_a_passed_socket_there_is_none() -> None:
    assert await listener() == "none"


async def test_sockets_meant_for_another_process_are_left_alone(unix: socket.socket) -> None:
    assert await listener(unix, pid_offset=1) == "none"


async def test_two_sockets_are_refused(unix: socket.socket) -> None:
    assert "passed more than one socket (keyd, other)" in await listener(unix, unix)


async def test_a_tcp_socket_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert "passed not a Unix stream socket (keyd)" in await listener(tcp)


async def test_a_datagram_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        datagram.bind(str(tmp_path / "datagram"))
        assert "passed not a Unix stream socket (keyd)" in await listener(datagram)


async def test_a_connection_is_refused_as_with_accept_yes() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert "passed a connection, not a listening socket (keyd)" in await listener(one)


@pytest.mark.parametrize("count", ["", "x", "-1", "2", "٣"])
async def test_a_count_that_does_not_fit_the_names_is_refused(unix: socket.socket, count: str) -> None:
    assert "do not fit together" in await listener(unix, LISTEN_FDS=count)


async def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    assert "is no socket" in await listener(LISTEN_FDS="1", LISTEN_FDNAMES="keyd")


# -- notifications ----------------------------------------------------------------------------------------


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    async def told(self) -> list[str]:
        """The lines of the next message."""
        message = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 4096), 60)
        return message.decode().splitlines()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def notifier(manager: Manager, **environment: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(manager.socket.getsockname()), **environment})


async def test_readiness_and_stop_are_told(manager: Manager) -> None:
    notifier(manager).ready("answers")
    assert await manager.told() == ["READY=1", "STATUS=answers"]
    notifier(manager).stopping()
    assert (await manager.told())[0] == "STOPPING=1"


async def test_an_abstract_socket_is_told_too() -> None:
    manager = Manager(f"\0osmoda-test-{os.getpid()}")
    Notifier({"NOTIFY_SOCKET": f"@osmoda-test-{os.getpid()}"}).ready("answers")
    assert "READY=1" in await manager.told()
    manager.socket.close()


async def test_a_service_manager_that_is_gone_does_not_disturb_the_stop(manager: Manager) -> None:
    orphan = notifier(manager)
    manager.socket.close()
    orphan.stopping()


async def test_a_service_manager_that_does_not_listen_holds_up_nothing(manager: Manager) -> None:
    unheard = notifier(manager)
    for _ in range(2000):  # far beyond net.unix.max_dgram_qlen
        unheard.stopping()
    heard = 0
    with suppress(BlockingIOError):
        while manager.socket.recv(4096):
            heard += 1
    assert 0 < heard < 2000


async def test_without_a_service_manager_nothing_happens() -> None:
    alone = Notifier({})
    alone.ready("answers")
    alone.stopping()
    await asyncio.wait_for(alone.keep_alive(lambda: pytest.fail("nobody watches")), 1)


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_the_watchdog(environment: dict[str, str], limit: float | None) -> None:
    assert Notifier(environment).watchdog_s == limit


async def test_each_answer_of_the_probe_is_one_sign_of_life(manager: Manager) -> None:
    answers: asyncio.Queue[None] = asyncio.Queue()
    alive = asyncio.create_task(notifier(manager, WATCHDOG_USEC="2000").keep_alive(answers.get))
    for _ in range(3):
        answers.put_nowait(None)
        assert await manager.told() == ["WATCHDOG=1"]
    with pytest.raises(BlockingIOError):  # the probe waits, so nothing more is sent
        manager.socket.recv(4096)
    alive.cancel()


# -- keyd as a whole --------------------------------------------------------------------------------------


def configuration(folder: Path) -> Path:
    config = folder / "keyd.toml"
    kek = folder / "kek"
    kek.write_text("00" * 32)
    kek.chmod(0o600)
    settings = {
        "socket": str(folder / "not-used.sock"),
        "state_dir": str(folder / "state"),
        "kek_file": str(kek),
        "peers": {"admin": [os.getuid()]},
    }
    (folder / "state" / "wallets").mkdir(parents=True, mode=0o700)
    config.write_text(tomli_w.dumps(settings))
    return config


async def test_keyd_answers_on_the_passed_socket_before_it_says_ready(
    tmp_path: Path, unix: socket.socket, manager: Manager
) -> None:
    program = ["-m", "keyd", "--config", str(configuration(tmp_path))]
    variables = {"NOTIFY_SOCKET": str(manager.socket.getsockname()), "WATCHDOG_USEC": "20000"}
    async with started(program, [unix], variables) as keyd:
        assert (await manager.told())[0] == "READY=1"
        async with KeydClient(str(unix.getsockname())) as client:
            assert (await client.health()).version
        assert not (tmp_path / "not-used.sock").exists()
        assert await manager.told() == ["WATCHDOG=1"]
        keyd.terminate()
        while (message := await manager.told())[0] != "STOPPING=1":
            assert message == ["WATCHDOG=1"]
        assert await keyd.wait() == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(
            unix.getsockname()
        )  # the socket is still systemd's: a connection would start keyd again


async def test_keyd_refuses_to_start_on_a_tcp_socket(tmp_path: Path, manager: Manager) -> None:
    program = ["-m", "keyd", "--config", str(configuration(tmp_path))]
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        async with started(program, [tcp], {"NOTIFY_SOCKET": str(manager.socket.getsockname())}) as keyd:
            _, err = await keyd.communicate()
    assert keyd.returncode == 2
    assert "hint: keep one ListenStream=/path in the socket unit" in err.decode()
    with pytest.raises(BlockingIOError):
        manager.socket.recv(4096)


async def test_a_stuck_ledger_writer_silences_the_watchdog(tmp_path: Path, manager: Manager) -> None:
    """The probe of keyd itself, against a real ledger whose writer is held up by a step before the second probe."""
    entered, release = threading.Event(), threading.Event()
    ledger = Ledger.open(tmp_path / "ledger.sqlite3", clock=lambda: 1)
    probes = itertools.count()

    async def probe() -> None:
        if next(probes) == 1:
            ledger.transact(lambda _: (entered.set(), release.wait()))
        await _writer_answers(ledger)

    try:
        alive = asyncio.create_task(notifier(manager, WATCHDOG_USEC="2000").keep_alive(probe))
        assert await manager.told() == ["WATCHDOG=1"]
        assert await asyncio.to_thread(entered.wait, 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(manager.told(), 0.2)  # a hundred signs of life would fit
        release.set()
        assert await manager.told() == ["WATCHDOG=1"]
        alive.cancel()
    finally:
        release.set()
        ledger.close()
