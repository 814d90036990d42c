"""What addons do at the steps that mitmproxy announces, called directly.

mitmproxy 12.2.3 makes a task of every hook, which looks through all addons and then waits until the event is over that it
was announced in: a third of what a small request costs. Here an addon's function is looked up once. What it does
without waiting for anything is done when it is announced, and the layer goes on as soon as the event is over; only
what waits (for keyd) gets a task.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from mitmproxy.master import Master
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.server_hooks import ServerConnectHook

type Function = Callable[[Any], Any]

_log = logging.getLogger("mitmproxy.addons")


class Hooks:
    """The addons of one `Master`, by what they want to hear of. The fault of one does not stop the others."""

    def __init__(self, master: Master) -> None:
        self._addons = master.addons
        self._functions: dict[str, tuple[Function, ...]] = {}
        self._known_addons = 0

    def call(self, hook: commands.StartHook) -> Awaitable[None] | None:
        """Does what can be done at once. What has to be waited for, and all after it, is left to the caller."""
        functions = iter(self._interested(hook.name))
        pending = _advance(functions, hook)
        return None if pending is None else _go_on(pending, functions, hook)

    def _interested(self, name: str) -> tuple[Function, ...]:
        addons = self._addons.chain
        if len(addons) != self._known_addons:
            self._known_addons, self._functions = len(addons), {}
        if (functions := self._functions.get(name)) is None:
            named = (getattr(addon, name, None) for addon in addons)
            functions = self._functions[name] = tuple(function for function in named if callable(function))
        return functions


def _advance(functions: Iterator[Function], hook: commands.StartHook) -> Awaitable[Any] | None:
    """Calls one after the other, up to one that has to be waited for."""
    (data,) = hook.args()
    for function in functions:
        try:
            pending = function(data)
        except Exception as error:  # noqa: BLE001
            _note(error, hook)
            continue
        if pending is not None and inspect.isawaitable(pending):
            return pending
    return None


async def _go_on(
    pending: Awaitable[Any] | None, functions: Iterator[Function], hook: commands.StartHook
) -> None:
    while pending is not None:
        try:
            await pending
        except Exception as error:  # noqa: BLE001
            _note(error, hook)
        pending = _advance(functions, hook)


def _note(error: Exception, hook: commands.StartHook) -> None:
    _log.exception("Addon error: %s", error)
    if isinstance(hook, ServerConnectHook):
        hook.data.server.error = "an addon has failed"  # it might have refused the destination


class HookedLayer:
    """Stands in front of the topmost layer, for `ConnectionHandler.server_event`, and keeps hooks from it."""

    def __init__(self, top: layer.Layer, begin: Callable[[commands.StartHook], bool]) -> None:
        """`begin` says whether a hook is done already; otherwise it sees to it that the layer hears of it later."""
        self.context = top.context
        self._top = top
        self._begin = begin

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        # A layer goes on after its hook only once the event is over in which it announced it: until then the layers
        # around it have not finished their own bookkeeping.
        due = deque([event])
        while due:
            for command in self._top.handle_event(due.popleft()):
                if not isinstance(command, commands.StartHook):
                    yield command
                elif self._begin(command) and command.blocking:
                    due.append(events.HookCompleted(command))
