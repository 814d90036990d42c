"""Hands a document to the administrator's command or URL. Whatever that does, the pass goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

import aiohttp
import structlog

from reconcile.config import HookSettings, server_name

_log = structlog.get_logger("reconcile.hook")


async def deliver(settings: HookSettings, document: bytes, session: aiohttp.ClientSession) -> bool:
    """True if every configured way took `document` (JSON). Never raises for a hook that fails or hangs."""
    taken = []
    if settings.command:
        taken.append(await _command(settings.command, document, settings.timeout_seconds))
    if settings.url is not None:
        taken.append(
            await _post(session, settings.url.get_secret_value(), document, settings.timeout_seconds)
        )
    return all(taken)


async def _command(command: Sequence[str], document: bytes, timeout_s: float) -> bool:
    """The document on stdin. A session of its own, so that what it started ends with it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        _log.error("hook.command.failed", command=command[0], error=error.strerror)
        return False
    try:
        async with asyncio.timeout(timeout_s):
            await process.communicate(document)
    except TimeoutError:
        _log.error("hook.command.hung", command=command[0], seconds=timeout_s)
        if process.returncode is None:  # so the number is still its own
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return False
    if process.returncode != 0:
        _log.error("hook.command.failed", command=command[0], code=process.returncode)
    return process.returncode == 0


async def _post(session: aiohttp.ClientSession, url: str, document: bytes, timeout_s: float) -> bool:
    """Only the host is logged: the rest of such a URL is often the right to post there."""
    headers = {"Content-Type": "application/json"}
    limit = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.post(
            url, data=document, headers=headers, timeout=limit, allow_redirects=False
        ) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        _log.error("hook.url.failed", server=server_name(url), error=type(error).__name__)
        return False
    if not 200 <= status < 300:
        _log.error("hook.url.failed", server=server_name(url), status=status)
        return False
    return True
