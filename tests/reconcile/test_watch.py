"""The alert hook against the real keyd: told once, told again after a failure, and never in the way."""

from __future__ import annotations

import json
import os
import select
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from aiohttp import web

from keyd import api
from keyd.api import Role
from keyd.client import KeydClient
from keyd.configfile import ConfigError, load
from keyd.peer import Peer
from reconcile.config import HookSettings, ReconcileSettings
from reconcile.rpc import open_session
from reconcile.watch import STATE_FILE, watch
from tests.reconcile.conftest import Stage

ADMIN = Peer(1, 0, 0)


class Hook:
    """A command that keeps what it is told, and does what a test says."""

    def __init__(self, folder: Path) -> None:
        self.kept = folder / "told"
        self.kept.mkdir()
        self.state = folder / "alerts"
        self.state.mkdir()
        self.does = "true"
        self.timeout_s = 30.0

    @property
    def settings(self) -> HookSettings:
        # A shell: it has kept what it is told long before any limit, which an interpreter of Python might not reach.
        script = f"cd '{self.kept}' && cat > $(ls | wc -l) && {self.does}"
        return HookSettings(command=("/bin/sh", "-c", script), timeout_seconds=self.timeout_s)

    @property
    def told(self) -> list[list[dict[str, Any]]]:
        """The alerts of each call."""
        return [
            json.loads((self.kept / str(n)).read_text())["alerts"] for n in range(len(os.listdir(self.kept)))
        ]

    @property
    def kinds(self) -> list[list[str]]:
        return [[alert["kind"] for alert in call] for call in self.told]


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


def _ends(pid: int) -> bool:
    """Whether the process is gone, or goes while one looks."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 30)[0])
    finally:
        os.close(process)


async def look(stage: Stage, hook: Hook, **alerts: Any) -> bool:
    table = {"network": "eip155:84532", "rpc": ["http://127.0.0.1:9"]}
    settings = ReconcileSettings(
        keyd_socket=str(stage.socket),
        networks=(table,),  # type: ignore[arg-type]
        state_dir=str(hook.state),
        alerts=HookSettings(**alerts) if alerts else hook.settings,
    )
    async with KeydClient(settings.keyd_socket) as keyd, open_session() as session:
        return await watch(settings, keyd, session)


async def test_a_freeze_is_told_once_and_again_when_it_comes_back(bare_stage: Stage, hook: Hook) -> None:
    assert await look(bare_stage, hook)
    await bare_stage.rig.admin.freeze(ADMIN, "odd prices")
    for _ in range(3):
        assert await look(bare_stage, hook)
    assert hook.kinds == [["frozen"]]
    assert "odd prices" in hook.told[0][0]["text"]
    await bare_stage.rig.admin.unfreeze(ADMIN)
    assert await look(bare_stage, hook)
    bare_stage.rig.clock.advance(1)
    await bare_stage.rig.admin.freeze(ADMIN, "again")
    assert await look(bare_stage, hook)
    assert hook.kinds == [["frozen"], ["frozen"]]


@pytest.mark.parametrize("does", ["exit 3", "sleep 600"])
async def test_what_a_failing_or_hanging_hook_was_told_is_told_again(
    bare_stage: Stage, hook: Hook, does: str
) -> None:
    await bare_stage.rig.admin.freeze(ADMIN, "odd prices")
    hook.does, hook.timeout_s = does, 3.0
    assert not await look(bare_stage, hook)
    hook.does, hook.timeout_s = "true", 30.0
    assert await look(bare_stage, hook)
    assert await look(bare_stage, hook)
    assert hook.kinds == [["frozen"], ["frozen"]]


async def test_a_hook_that_hangs_is_killed_with_what_it_started(bare_stage: Stage, hook: Hook) -> None:
    pid = hook.state / "pid"
    await bare_stage.rig.admin.freeze(ADMIN, "")
    hook.does, hook.timeout_s = f"{{ sleep 600 & echo $! > '{pid}'; wait; }}", 3.0
    assert not await look(bare_stage, hook)
    assert _ends(int(pid.read_text()))


async def test_a_hook_that_does_not_exist_is_a_failure_and_no_fault(bare_stage: Stage, hook: Hook) -> None:
    await bare_stage.rig.admin.freeze(ADMIN, "")
    assert not await look(bare_stage, hook, command=("/no/such/program",))


async def test_a_keyd_that_is_not_there_is_told_once_and_the_rest_is_not_forgotten(
    bare_stage: Stage, hook: Hook
) -> None:
    await bare_stage.rig.admin.freeze(ADMIN, "")
    assert await look(bare_stage, hook)
    there = bare_stage.socket
    bare_stage.socket = Path("/no/such/socket")
    for _ in range(2):
        assert await look(bare_stage, hook)
    bare_stage.socket = there
    assert await look(bare_stage, hook)
    assert hook.kinds == [["frozen"], ["keyd_unreachable"]]
    bare_stage.socket = Path("/no/such/socket")
    assert await look(bare_stage, hook)
    assert hook.kinds[2:] == [["keyd_unreachable"]]


async def test_a_ledger_that_cannot_be_read_is_told(bare_stage: Stage, hook: Hook) -> None:
    bare_stage.rig.ledger.close()
    assert await look(bare_stage, hook)
    assert hook.kinds == [["ledger_failure"]]


async def test_without_a_hook_keyd_is_not_even_asked(bare_stage: Stage, hook: Hook) -> None:
    bare_stage.socket = Path("/no/such/socket")
    assert await look(bare_stage, hook, timeout_seconds=1.0)
    assert list(hook.state.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"told": 7}'])
async def test_a_broken_note_tells_again_rather_than_keeping_silent(
    bare_stage: Stage, hook: Hook, content: str
) -> None:
    await bare_stage.rig.admin.freeze(ADMIN, "")
    (hook.state / STATE_FILE).write_text(content)
    assert await look(bare_stage, hook)
    assert await look(bare_stage, hook)
    assert hook.kinds == [["frozen"]]


async def test_a_note_that_cannot_be_written_is_a_failure_after_telling(
    bare_stage: Stage, hook: Hook
) -> None:
    await bare_stage.rig.admin.freeze(ADMIN, "")
    hook.state.rmdir()
    assert not await look(bare_stage, hook)
    assert hook.kinds == [["frozen"]]


async def test_the_reconciler_sees_the_policy_and_can_change_nothing_of_it(
    bare_stage: Stage,
) -> None:
    assert Role.RECONCILER in api.ENDPOINTS["policy"].roles
    may = {name for name, endpoint in api.ENDPOINTS.items() if Role.RECONCILER in endpoint.roles}
    changing = {name for name in may if api.ENDPOINTS[name].method != "GET"}
    assert changing == {"evidence", "ledger_checkpoint"}


# -- URL --------------------------------------------------------------------------------------------------


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[str, list[dict[str, Any]], dict[str, int]]]:
    """URL, what was posted, and the status that it answers."""
    posted: list[dict[str, Any]] = []
    answers = {"status": 200}

    async def handle(request: web.Request) -> web.Response:
        posted.append(await request.json())
        return web.Response(status=answers["status"], headers={"Location": "http://127.0.0.1:9/"})

    app = web.Application()
    app.router.add_post("/secret-token", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/secret-token", posted, answers
    await runner.cleanup()


@pytest.mark.parametrize("status", [500, 404, 302])
async def test_a_url_gets_a_post_until_it_takes_it(
    bare_stage: Stage,
    hook: Hook,
    receiver: tuple[str, list[dict[str, Any]], dict[str, int]],
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, posted, answers = receiver
    await bare_stage.rig.admin.freeze(ADMIN, "")
    answers["status"] = status
    assert not await look(bare_stage, hook, url=url)
    answers["status"] = 204
    assert await look(bare_stage, hook, url=url)
    assert await look(bare_stage, hook, url=url)
    assert [[alert["kind"] for alert in post["alerts"]] for post in posted] == [["frozen"], ["frozen"]]
    assert posted[0]["version"] == 1
    captured = capsys.readouterr()
    assert "secret-token" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ({"url": "http://example.com/secret"}, "example.com: write https"),
        ({"url": "ftp://example.com/secret"}, "not a URL"),
        ({"command": ["tell-me"]}, "whole path"),
        ({"command": [""]}, "command"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"cmd": ["/bin/x"]}, "cmd"),
    ],
)
def test_a_hook_that_could_not_work_is_refused_without_its_url(
    tmp_path: Path, alerts: dict[str, Any], words: str
) -> None:
    file = tmp_path / "reconcile.toml"
    table = {"network": "eip155:8453", "rpc": ["https://rpc.example.com/"]}
    file.write_text(tomli_w.dumps({"networks": [table], "alerts": alerts}))
    with pytest.raises(ConfigError, match=words) as refused:
        load(ReconcileSettings, file)
    assert "secret" not in str(refused.value)
