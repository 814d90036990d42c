"""Who may do what, cell by cell: the table of docs/keyd-protocol.md against a real keyd, asked by real users.

The kernel says who is asking, so each question is put by a child process that has become that user. Needs root.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import socket
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.programs import BIN, Program
from keyd import api
from keyd.http.quotas import SHARES
from tests.keyd.conftest import sign_request

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users")

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs/keyd-protocol.md").read_text("utf-8")
TABLE = {
    (method, path): frozenset(roles.split(", "))
    for method, path, roles in re.findall(r"^\| `([A-Z]+) (/\S+)` \| (.*) \|$", PROTOCOL, re.MULTILINE)
}
"""As people read it; `keyd.api.ENDPOINTS`, from which keyd works, has no part in this."""


@dataclass(frozen=True)
class User:
    """Somebody whom no file of this machine needs to know."""

    uid: int
    gid: int


BY_USER = {
    "egress": User(64001, 64001),
    "agent": User(64002, 64002),
    "reconciler": User(64003, 64003),
    "admin": User(64004, 64004),
}
BY_GROUP = {  # groups that every Linux has; the users are in them and nowhere else
    "egress": ("daemon", 64011),
    "agent": ("bin", 64012),
    "reconciler": ("sys", 64013),
    "admin": ("adm", 64014),
}
STRANGER = User(64099, 64099)


class RealKeyd:
    """keyd as a process of its own; its socket is open to everybody, so that roles alone decide."""

    def __init__(self, folder: Path, descriptors: int | None = None) -> None:
        self.socket = folder / "keyd.sock"
        peers = {
            role: [user.uid, "@" + BY_GROUP[role][0]] + ([0] if role == "admin" else [])
            for role, user in BY_USER.items()
        }
        config = folder / "keyd.toml"
        config.write_text(
            f'socket = "{self.socket}"\nsocket_mode = "0666"\n'
            f'state_dir = "{folder}/state"\nkek_file = "{folder}/kek"\n[peers]\n'
            + "".join(f"{role} = {json.dumps(entries)}\n" for role, entries in peers.items())
            + '[x402]\nallowed_domains = ["api.example.com"]\nnetworks = ["eip155:84532"]\n'
        )
        self._keyctl("--config", config, "init")
        limits = ["prlimit", f"--nofile={descriptors}"] if descriptors else []
        self._program = Program(
            "keyd", [*limits, BIN / "osmoda-keyd", "--config", config], folder / "keyd.log"
        )
        self._program.start()
        self._keyctl("--socket", self.socket, "wallet", "create", "default")

    def _keyctl(self, *arguments: str | Path) -> None:
        subprocess.run([BIN / "keyctl", *arguments], check=True, capture_output=True, timeout=240)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._program.pid}/fd"))

    def stop(self) -> None:
        self._program.stop()


@pytest.fixture(scope="module")
def keyd() -> Iterator[RealKeyd]:
    with _folder() as folder:
        running = RealKeyd(folder)
        yield running
        running.stop()


@pytest.fixture
def scarce_keyd() -> Iterator[RealKeyd]:
    """It may have fewer descriptors open than there are going to be connections."""
    with _folder() as folder:
        running = RealKeyd(folder, descriptors=400)
        yield running
        running.stop()


class _folder(tempfile.TemporaryDirectory[str]):  # noqa: N801 - used as a function
    """Reachable for every user, unlike pytest's own."""

    def __init__(self) -> None:
        super().__init__(prefix="osmoda-peers-")

    def __enter__(self) -> Path:  # type: ignore[override]
        folder = Path(super().__enter__())
        folder.chmod(0o755)
        return folder


def become(user: User, task: Callable[[], Any]) -> Any:
    """What `task` returns in a child process that is `user` and nothing else. Raises AssertionError if it raises."""
    receiving, sending = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            with os.fdopen(sending, "w") as pipe:
                json.dump(task(), pipe)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it was, pytest must not go on in two processes
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, f"{user} failed"
    return json.loads(answer)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("keyd", timeout=240)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: Path, method: str, target: str, body: bytes | None = None) -> tuple[int, str]:
    """Status, and the reason code if there is one."""
    connection = _Unix(path)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        answer = response.read()
        return response.status, "" if response.status == 200 else json.loads(answer)["code"]
    finally:
        connection.close()


def ask_all(path: Path) -> list[tuple[int, str]]:
    """Every endpoint of the table, in its order: without a body, so that nothing happens that needs one."""
    return [ask(path, method, target.replace("{id}", "0" * 12)) for method, target in TABLE]


def signing(path: Path, what: int) -> tuple[int, str]:
    return ask(path, "POST", "/x402/sign", sign_request(what=what).model_dump_json().encode())


def test_the_table_has_every_endpoint() -> None:
    assert set(TABLE) == {(endpoint.method, endpoint.path) for endpoint in api.ENDPOINTS.values()}
    assert set().union(*TABLE.values()) == {*BY_USER}


@pytest.mark.parametrize("how", ["user", "group"])
@pytest.mark.parametrize("role", BY_USER)
def test_each_user_reaches_exactly_the_endpoints_of_its_role(keyd: RealKeyd, role: str, how: str) -> None:
    user = BY_USER[role] if how == "user" else _member(*BY_GROUP[role])
    for (endpoint, roles), (status, code) in zip(
        TABLE.items(), become(user, lambda: ask_all(keyd.socket)), strict=True
    ):
        if role in roles:
            assert code not in ("role_insufficient", "peer_unknown"), (endpoint, status, code)
            assert status in (200, 400, 404), (endpoint, status, code)
        else:
            assert (status, code) == (403, "role_insufficient"), endpoint


def _member(group: str, uid: int) -> User:
    import grp

    return User(uid, grp.getgrnam(group).gr_gid)


def test_a_stranger_reaches_nothing(keyd: RealKeyd) -> None:
    answers = become(STRANGER, lambda: [*ask_all(keyd.socket), ask(keyd.socket, "GET", "/nowhere")])
    assert {tuple(answer) for answer in answers} == {(403, "peer_unknown")}


def test_root_is_not_egress_by_being_root(keyd: RealKeyd) -> None:
    assert signing(keyd.socket, 1) == (403, "role_insufficient")
    assert become(BY_USER["egress"], lambda: signing(keyd.socket, 1)) == [200, ""]


@pytest.mark.parametrize("who", ["stranger", "agent"])
def test_five_hundred_idle_connections_of_another_user_do_not_keep_egress_from_signing(
    scarce_keyd: RealKeyd, who: str
) -> None:
    user = STRANGER if who == "stranger" else BY_USER["agent"]
    share = SHARES[None if who == "stranger" else api.Role.AGENT].each
    crowd = Crowd(user, scarce_keyd.socket, 500)
    try:
        assert crowd.connected == 500
        before = scarce_keyd.descriptors()
        answers = become(BY_USER["egress"], lambda: [signing(scarce_keyd.socket, n) for n in range(20)])
        assert answers == [[200, ""]] * 20
        assert before < 100
        assert crowd.holding() <= share  # all others were closed by keyd
    finally:
        crowd.leave()


class Crowd:
    """A process that opens connections and says nothing on them."""

    def __init__(self, user: User, path: Path, count: int) -> None:
        to_us, from_child = os.pipe()
        from_us, to_child = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(to_us)
            os.close(to_child)  # or it would never see the end of our questions
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
                os.setgroups([])
                os.setresgid(user.gid, user.gid, user.gid)
                os.setresuid(user.uid, user.uid, user.uid)
                self._stand_around(path, count, from_us, from_child)
            except BaseException:  # noqa: BLE001 - whatever it was, pytest must not go on in two processes
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(from_child)
        os.close(from_us)
        self._answers = os.fdopen(to_us)
        self._questions = os.fdopen(to_child, "w")
        self.connected = int(self._answers.readline())

    def _stand_around(self, path: Path, count: int, questions: int, answers: int) -> None:
        sockets = []
        for _ in range(count):
            sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sockets[-1].connect(str(path))
        os.write(answers, b"%d\n" % len(sockets))
        os.read(questions, 1)
        os.write(answers, b"%d\n" % sum(_is_open(each) for each in sockets))
        os.read(questions, 1)

    def holding(self) -> int:
        """How many of its connections keyd still has open."""
        print("?", end="", file=self._questions, flush=True)
        return int(self._answers.readline())

    def leave(self) -> None:
        self._questions.close()
        self._answers.close()
        os.waitpid(self._child, 0)


def _is_open(connection: socket.socket) -> bool:
    """Nothing, not even an end, has come within a moment that a turned-away peer never needs."""
    connection.settimeout(0.1)
    try:
        while received := connection.recv(4096):
            assert b"connections_exceeded" in received
    except TimeoutError:
        return True
    except OSError:
        return False
    return False
