"""What a process that holds keys does to itself at start."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h
_CAP_IPC_LOCK: Final = 14  # linux/capability.h
_MCL_CURRENT: Final = 1  # linux/mman.h
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
"""Lock pages when they are used: the whole address space, 1 GB of it never touched, need not fit into memory."""


def raise_descriptor_limit() -> None:
    """As many open connections as the system grants: a thousand idle ones must not lock everybody out."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def forbid_dumps() -> None:
    """No core file, no /proc/PID/mem for others of the same user, new files private."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")


def lock_memory() -> bool:
    """From now on no page of this process goes to swap, where a key would outlast the machine's switching off.

    False if the system does not let us. Below a limit an allocation would fail one day: there must be none, or the
    capability to which it does not apply (mlock(2)), which is how containers grant it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if most == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    elif not _is_capable(_CAP_IPC_LOCK):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def _is_capable(capability: int) -> bool:
    """Whether this process has it in effect."""
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(fields["CapEff"], 16) >> capability & 1)


def overwrites_freed_memory(environment: Mapping[str, str]) -> bool:
    """Whether glibc overwrites what Python frees, so that a dropped key is gone: as the unit's Environment= asks.

    It cannot be switched on from within: both are read before the first line of Python runs (malloc(3) tunables, PYTHONMALLOC).
    """
    tunables = environment.get("GLIBC_TUNABLES", "").split(":")
    wiping = any(tunable.startswith("glibc.malloc.perturb=") for tunable in tunables)
    return (
        wiping and "glibc.malloc.tcache_count=0" in tunables and environment.get("PYTHONMALLOC") == "malloc"
    )
