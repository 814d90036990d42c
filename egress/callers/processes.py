"""Which process holds a socket, and which systemd unit it belongs to, as far as /proc lets us see.

For the record only: uid decides, pid and unit help a person to find the program. A process can hand its socket
on or end while we look, so no answer is as good as a wrong one here.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEARCH_LIMIT_S: Final = 0.05
"""A machine with thousands of processes takes longer; then there is no answer, and the payment does not wait."""
_MAX_UNIT: Final = 255
"""Characters of a unit name (systemd.unit(5))."""
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope)")

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    unit: str | None
    """Innermost systemd unit, like `backup.service`."""


def find_process(uid: int, inode: int, proc: Path = _PROC, limit_s: float = SEARCH_LIMIT_S) -> Process | None:
    """A process of `uid` that holds the socket `inode`; None if none is found within `limit_s` seconds.

    Sees the processes whose descriptors we may read: our own user's, or all with CAP_SYS_PTRACE. Raises nothing.
    """
    deadline = time.monotonic() + limit_s
    target = f"socket:[{inode}]"
    for pid in _pids(proc):
        if time.monotonic() > deadline:
            return None
        folder = proc / str(pid)
        if _owner(folder) == uid and _holds(folder / "fd", target, deadline):
            return Process(pid, _unit(folder))
    return None


def _pids(proc: Path) -> list[int]:
    """The youngest first: a program that has just connected is rarely an old one."""
    try:
        return sorted((int(name) for name in os.listdir(proc) if name.isdecimal()), reverse=True)
    except OSError:
        return []


def _owner(folder: Path) -> int | None:
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def _holds(descriptors: Path, target: str, deadline: float) -> bool:
    try:
        with os.scandir(descriptors) as entries:
            for entry in entries:
                if time.monotonic() > deadline:
                    return False
                if _link(entry.path) == target:
                    return True
    except OSError:  # not ours to read, or gone
        pass
    return False


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _unit(folder: Path) -> str | None:
    try:
        text = (folder / "cgroup").read_text(errors="replace")
    except OSError:
        return None
    return unit_of(text)


def unit_of(cgroup: str) -> str | None:
    """The innermost service or scope in the text of /proc/PID/cgroup, version 2 or 1 (cgroups(7))."""
    for line in cgroup.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy != "0" and controllers != "name=systemd":
            continue
        for part in reversed(path.split("/")):
            if _UNIT.fullmatch(part) and len(part) <= _MAX_UNIT:
                return part
    return None
