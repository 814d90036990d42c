"""Unmodified client programs. Nothing tells them of payments: only a proxy and a certificate authority."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
CLIENTS = ("curl", "requests", "httpx", "aiohttp")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: str


def fetch(
    client: str, url: str, environment: Mapping[str, str], method: str = "GET", body: str | None = None
) -> Answer:
    """Runs `client`, one of CLIENTS, as a process of its own."""
    arguments = [method, url] if body is None else [method, url, body]
    command = (
        curl_command(*arguments)
        if client == "curl"
        else [sys.executable, str(PROGRAMS / f"with_{client}.py"), *arguments]
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{client} failed: {done.stderr}"
    return _from_curl(done.stdout) if client == "curl" else _from_json(done.stdout)


def curl_command(method: str, url: str, body: str | None = None) -> list[str]:
    # --suppress-connect-headers: the proxy's answer to CONNECT is not the answer
    command = ["curl", "-sSi", "--suppress-connect-headers", "-X", method, url]
    return command if body is None else [*command, "--data-binary", body]


def _from_curl(output: str) -> Answer:
    head, _, body = output.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.splitlines()
    fields = (line.partition(":") for line in lines)
    return Answer(int(status.split()[1]), {name.lower(): value.strip() for name, _, value in fields}, body)


def _from_json(output: str) -> Answer:
    answer = json.loads(output)
    return Answer(
        answer["status"], {name.lower(): value for name, value in answer["headers"].items()}, answer["body"]
    )
