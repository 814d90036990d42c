"""Hooks are done where they are announced; the layer hears of it after the event."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy.proxy import commands, events, layer

from egress.stack.hooks import HookedLayer, Hooks


@dataclass
class GreetedHook(commands.StartHook):  # type: ignore[no-untyped-call]
    heard: list[str]


def hooks(*addons: object) -> Hooks:
    return Hooks(cast(Any, SimpleNamespace(addons=SimpleNamespace(chain=list(addons)))))


def addon(function: Any) -> object:
    return SimpleNamespace(greeted=function)


class Greeting:
    """A layer that announces one hook, and says what it hears."""

    context = None

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.HookCompleted):
            self.heard.append("completed")
            return
        yield GreetedHook(self.heard)
        self.heard.append("end of the event")


def test_the_layer_hears_that_its_hook_is_done_after_the_event_that_it_announced_it_in() -> None:
    heard: list[str] = []
    called = hooks(addon(lambda said: said.append("called")))
    hooked = HookedLayer(cast(Any, Greeting(heard)), lambda hook: called.call(hook) is None)
    assert list(hooked.handle_event(events.Start())) == []
    assert heard == ["called", "end of the event", "completed"]


def test_a_hook_that_waits_is_not_yet_done() -> None:
    heard: list[str] = []
    hooked = HookedLayer(cast(Any, Greeting(heard)), lambda _: False)
    assert list(hooked.handle_event(events.Start())) == []
    assert heard == ["end of the event"]


async def test_addons_are_called_in_turn_and_wait_for_one_another() -> None:
    heard: list[str] = []

    async def waits(said: list[str]) -> None:
        said.append("second")

    def in_time(said: list[str]) -> Awaitable[None]:
        said.append("third")
        return waits(said)

    rest = hooks(
        addon(lambda said: said.append("first")), addon(waits), object(), addon(in_time), addon(waits)
    ).call(GreetedHook(heard))
    assert heard == ["first"]
    assert rest is not None
    await rest
    assert heard == ["first", "second", "third", "second", "second"]


async def test_the_fault_of_one_addon_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def fails_late(_: list[str]) -> None:
        raise ValueError("late")

    def fails(_: list[str]) -> None:
        raise ValueError("at once")

    heard: list[str] = []
    rest = hooks(addon(fails), addon(fails_late), addon(fails), addon(lambda s: s.append("called"))).call(
        GreetedHook(heard)
    )
    assert rest is not None
    await rest
    assert heard == ["called"]
    assert [record.getMessage() for record in caplog.records] == [
        "Addon error: at once",
        "Addon error: late",
        "Addon error: at once",
    ]
