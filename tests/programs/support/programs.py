"""The programs that fetch a URL, and what is known of each: docs/programs.md is held against this."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.programs.support.machine import CACHE, CLIENTS


@dataclass(frozen=True)
class Client:
    """A program that writes what it gets from a URL to stdout, as it comes."""

    name: str
    command: Sequence[str | Path]
    """The URL is added."""
    streams: bool = True
    """False: it shows nothing before the answer is complete."""


PYTHON = sys.executable

FETCHING = [
    Client("curl", ["curl", "-sSNf"]),
    Client("wget", ["wget", "-qO-"]),
    Client("Python urllib", [PYTHON, CLIENTS / "with_urllib.py"]),
    Client("Python requests", [PYTHON, CLIENTS / "with_requests.py"]),
    Client("Python httpx", [PYTHON, CLIENTS / "with_httpx.py"]),
    Client("Python aiohttp", [PYTHON, CLIENTS / "with_aiohttp.py"]),
    Client("Node undici EnvHttpProxyAgent", ["node", CLIENTS / "with_undici.mjs"]),
    Client("Node axios", ["node", CLIENTS / "with_axios.mjs"]),
    Client("Go http", [CACHE / "with_go"]),
    Client("Java HttpClient", ["java", "-XX:TieredStopAtLevel=1", CLIENTS / "Client.java"]),
]
