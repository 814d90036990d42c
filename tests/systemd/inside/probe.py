"""Tries what it must not be able to do, one thing after the other, and prints what came of each as JSON.

It runs inside the booted machine, as several users and under each service's own hardening. Standard library only.
Usage: probe.py PID_OF_KEYD
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

KEYD = int(sys.argv[1])
STATE = Path("/var/lib/osmoda-keyd")
PTRACE_SEIZE = 0x4206
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def read_key() -> None:
    Path("/run/credentials/osmoda-keyd.service/kek").read_bytes()


def read_sealed_key() -> None:
    Path("/etc/osmoda/kek.cred").read_bytes()


def list_state() -> None:
    os.listdir(STATE)


def read_ledger() -> None:
    (STATE / "ledger.sqlite3").read_bytes()


def read_wallet() -> None:
    (STATE / "wallets" / "default.json").read_bytes()


def read_authority_key() -> None:
    Path("/var/lib/osmoda-egress/ca/mitmproxy-ca.pem").read_bytes()


def read_memory() -> None:
    os.close(os.open(f"/proc/{KEYD}/mem", os.O_RDONLY))


def ptrace() -> None:
    if libc.ptrace(PTRACE_SEIZE, KEYD, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def sign() -> str:
    """The HTTP status of an empty question: 403 for the wrong role, 400 for one that may ask."""
    return ask_keyd("POST /x402/sign")


def administer() -> str:
    """403 for the wrong role, 400 for an administrator, since the question is empty."""
    return ask_keyd("POST /wallet/create")


def ask_keyd(endpoint: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as keyd:
        keyd.connect("/run/osmoda/keyd.sock")
        keyd.sendall(
            f"{endpoint} HTTP/1.1\r\nHost: keyd\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        return keyd.recv(4096).split()[1].decode()


def stand_in_for_keyd() -> None:
    """A socket beside keyd's, which could then take its place."""
    path = "/run/osmoda/probe.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as keyd:
        keyd.bind(path)
    os.unlink(path)


def internet6_socket() -> None:
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()


def read_memory_by_call() -> None:
    """process_vm_readv(2), which needs no /proc: one byte from an address that is not mapped, and then says EFAULT."""

    class Iovec(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    local, remote = Iovec(ctypes.addressof(ctypes.c_char()), 1), Iovec(8, 1)
    libc.process_vm_readv(KEYD, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if ctypes.get_errno() != errno.EFAULT:
        raise OSError(ctypes.get_errno(), "process_vm_readv")


def internet_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def netlink_socket() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


def packet_socket() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def write_and_execute_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_memory_executable() -> None:
    with mmap.mmap(-1, 4096) as memory:
        view = (ctypes.c_char * 4096).from_buffer(memory)
        failed = libc.mprotect(ctypes.addressof(view), 4096, mmap.PROT_READ | mmap.PROT_EXEC)
        code = ctypes.get_errno()
        del view
        if failed:
            raise OSError(code, "mprotect")


def run_what_it_wrote() -> None:
    program = Path(os.environ.get("STATE_DIRECTORY", "/var/tmp")) / f"written-by-probe-{os.getuid()}"
    try:
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o700)
        subprocess.run([program], check=True)
    finally:
        program.unlink(missing_ok=True)


def write_configuration() -> None:
    os.close(os.open("/etc/osmoda/keyd.toml", os.O_WRONLY))


def new_user_namespace() -> None:
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


PROBES: list[Callable[[], str | None]] = [
    read_key,
    read_sealed_key,
    list_state,
    read_ledger,
    read_wallet,
    read_authority_key,
    read_memory,
    read_memory_by_call,
    ptrace,
    sign,
    administer,
    stand_in_for_keyd,
    internet_socket,
    internet6_socket,
    netlink_socket,
    packet_socket,
    write_and_execute_memory,
    make_memory_executable,
    run_what_it_wrote,
    write_configuration,
    new_user_namespace,
]


def outcome(probe: Callable[[], str | None]) -> str:
    """`done`, the HTTP status, or the name of the error that stopped it."""
    try:
        return probe() or "done"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


print(json.dumps({probe.__name__: outcome(probe) for probe in PROBES}))
