"""A keyd that answers what a test tells it to, on a real Unix socket, and keyctl run against it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import BaseModel

from keyd import api
from keyd.cli.app import run


@dataclass
class FakeKeyd:
    """Answers each endpoint with a message of the contract, a Refusal (403), or whatever a function says.

    Nothing is answered that a test did not set: an unexpected question is a 500 that keyctl cannot read.
    """

    socket: Path
    answers: dict[str, BaseModel | Callable[[web.Request], BaseModel]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Endpoint names and bodies, in order."""

    async def handle(self, request: web.Request) -> web.Response:
        name = next(
            name
            for name, endpoint in api.ENDPOINTS.items()
            if endpoint.method == request.method
            and re.fullmatch(endpoint.path.replace("{id}", "[^/]+"), request.path)
        )
        self.asked.append((name, await request.text()))
        answer = self.answers[name]
        message = answer if isinstance(answer, BaseModel) else answer(request)
        status = 403 if isinstance(message, api.Refusal) else 200
        return web.Response(status=status, text=message.model_dump_json(by_alias=True))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has set must not reach keyctl."""
    for name in ("OSMODA_KEYD_SOCKET", "OSMODA_KEYD_CONFIG", "OSMODA_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keyd(tmp_path: Path) -> Iterator[FakeKeyd]:
    fake = FakeKeyd(tmp_path / "keyd.sock")
    listening, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", fake.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.UnixSite(runner, str(fake.socket)).start()
        return runner

    def live() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        listening.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=live)
    thread.start()
    assert listening.wait(60)
    yield fake
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture
def keyctl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs one command line in this process."""

    def call(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def ask(keyd: FakeKeyd, keyctl: Callable[..., Result]) -> Callable[..., Result]:
    """Runs one command line against the fake keyd."""
    return lambda *arguments: keyctl("--socket", keyd.socket, *arguments)
