"""The kernel names who owns the other end of a connection, and which process holds it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.callers import identity, processes
from egress.callers.netlink import Owner, decode_answer, encode_question, socket_owner
from tests.loopback import needs_ipv6


@pytest.fixture(
    params=[
        ("127.0.0.1", "127.0.0.1"),
        pytest.param(("::1", "::1"), marks=needs_ipv6),
        pytest.param(("::", "::1"), marks=needs_ipv6),
        pytest.param(("::", "127.0.0.1"), marks=needs_ipv6),
        pytest.param(("127.0.0.1", "::ffff:127.0.0.1"), marks=needs_ipv6),
    ],
    ids=["IPv4", "IPv6", "dual stack, IPv6", "dual stack, IPv4", "IPv4 by an IPv6 socket, as Java's are"],
)
def connection(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The program's end of a connection, and ours."""
    bound, called = request.param
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=bound == "::") as listener:
        theirs = socket.socket(socket.AF_INET6 if ":" in called else socket.AF_INET)
        theirs.connect((called, listener.getsockname()[1]))
        with closing(listener.accept()[0]) as ours, closing(theirs):
            yield theirs, ours


def owner_of_peer(ours: socket.socket) -> Owner | None:
    return socket_owner(ours.getpeername()[:2], ours.getsockname()[:2])


def test_the_kernel_names_the_owner_of_the_other_end(connection: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = connection
    assert owner_of_peer(ours) == Owner(os.getuid(), os.fstat(theirs.fileno()).st_ino)


def test_a_program_that_only_stopped_sending_is_still_its_owner(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    theirs, ours = connection
    theirs.shutdown(socket.SHUT_WR)
    assert owner_of_peer(ours) is not None


def test_a_closed_end_belongs_to_nobody(connection: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = connection
    theirs.close()
    assert owner_of_peer(ours) is None


def test_a_listener_on_the_callers_port_is_not_the_caller() -> None:
    # The kernel's lookup falls back to listeners: its answer must be held against the question.
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert socket_owner(other.getsockname()[:2], ("127.0.0.1", 1)) is None


def kernels_answer(state: int = 1, inode: int = 7, port: int = 40000, kind: int = 20) -> bytes:
    end = struct.pack("!HH4s12x4s12x", port, 19999, b"\x7f\0\0\1", b"\x7f\0\0\1") + bytes(12)
    message = struct.pack("=BBBB48s5I", socket.AF_INET, state, 0, 0, end, 0, 0, 0, 1000, inode)
    return struct.pack("=IHHII", 16 + len(message), kind, 0, 0, 0) + message


THEIRS, OURS = ("127.0.0.1", 40000), ("127.0.0.1", 19999)


def test_an_answer_about_this_connection_names_its_owner() -> None:
    assert decode_answer(kernels_answer(), THEIRS, OURS) == Owner(1000, 7)


@pytest.mark.parametrize(
    "answer",
    [
        kernels_answer(inode=0),
        kernels_answer(state=2),
        kernels_answer(state=6, inode=0),
        kernels_answer(state=10),
        kernels_answer(port=40001),
        kernels_answer(kind=2),
        kernels_answer()[:-1],
        b"",
    ],
    ids=["no inode", "connecting", "time-wait", "listening", "another port", "error", "cut short", "nothing"],
)
def test_any_other_answer_names_nobody(answer: bytes) -> None:
    assert decode_answer(answer, THEIRS, OURS) is None


@given(st.binary(max_size=200))
def test_no_answer_makes_it_fail(answer: bytes) -> None:
    assert decode_answer(answer, THEIRS, OURS) is None or len(answer) >= 88


def test_the_question_names_one_connection_as_inet_diag_wants_it() -> None:
    question = encode_question(THEIRS, OURS)
    assert struct.unpack_from("=IHH", question) == (len(question), 20, 1)  # a request, not a dump of all
    assert struct.unpack_from("=BB", question, 16) == (socket.AF_INET, socket.IPPROTO_TCP)
    assert struct.unpack_from("!HH4s", question, 24) == (40000, 19999, b"\x7f\0\0\1")
    assert question[-8:] == b"\xff" * 8


@pytest.mark.parametrize(
    ("uid_map", "expected"),
    [("0 0 4294967295", None), ("1000 1000 1", 65534), ("", 65534)],
    ids=["first namespace", "a namespace of its own", "unreadable"],
)
def test_the_uid_that_stands_for_all_unknown_users_is_nobody(
    tmp_path: Path, uid_map: str, expected: int | None
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    if uid_map:
        (tmp_path / "self/uid_map").write_text(f"{uid_map}\n")
    (tmp_path / "sys/kernel/overflowuid").write_text("65534\n")
    assert identity.overflow_uid(tmp_path) == expected


# -- the process --------------------------------------------------------------------------------------------


def test_the_process_that_holds_the_socket_is_found() -> None:
    with socket.socket() as held:
        found = processes.find_process(os.getuid(), os.fstat(held.fileno()).st_ino)
    assert found is not None
    assert found.pid == os.getpid()


def test_a_socket_that_nobody_holds_has_no_process() -> None:
    assert processes.find_process(os.getuid(), 1) is None


def test_the_search_ends_at_its_limit() -> None:
    with socket.socket() as held:
        assert processes.find_process(os.getuid(), os.fstat(held.fileno()).st_ino, limit_s=0) is None


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/backup.service\n", "backup.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u5.scope\n",
            "run-u5.scope",
        ),
        ("0::/system.slice/agent.service/workers\n", "agent.service"),
        ("3:cpu:/other.service\n1:name=systemd:/system.slice/a.service\n", "a.service"),
        ("0::/\n", None),
        ("0::/user.slice\n", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_the_unit_is_the_innermost_service_or_scope(cgroup: str, unit: str | None) -> None:
    assert processes.unit_of(cgroup) == unit
