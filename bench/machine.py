"""Where and with what something was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("osmoda-x402", "mitmproxy", "aiohttp", "pydantic", "coincurve", "cryptography", "eth-account")


def describe() -> str:
    """One line: processor, cores, memory, kernel, load before the run. No name of the machine."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, Linux {platform.release().split('-')[0]}, "
        f"load {load:.1f} before the run"
    )


def versions() -> dict[str, str]:
    """Of this interpreter and what it has installed; peers add their own."""
    return {
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{name: version(name) for name in PACKAGES},
    }


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
