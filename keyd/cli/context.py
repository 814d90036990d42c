"""Which keyd a command speaks to, and how it asks: `--socket`, `--config` and their environment variables."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import click

from keyd import api
from keyd.cli.errors import CliError, keyd_fault
from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable
from keyd.config import ConfigError, Settings, load

DEFAULT_CONFIG = Path("/etc/osmoda/keyd.toml")
ANSWER_TIMEOUT_S = 10.0  # every endpoint but verify answers from indexed tables, in milliseconds


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options of one keyctl run; None where neither flag nor environment variable was given."""

    socket_option: str | None
    config_option: Path | None

    @property
    def config_file(self) -> Path:
        return self.config_option or DEFAULT_CONFIG

    def settings(self) -> Settings:
        """Raises CliError if the file cannot be read or is not valid."""
        return load_settings(self.config_file)

    def socket(self) -> str:
        """Precedence: --socket, its variable, the configuration's `socket`, the built-in default."""
        if self.socket_option:
            return self.socket_option
        if self.config_option is None and not _readable(DEFAULT_CONFIG):
            return api.DEFAULT_SOCKET  # an administrator need not be allowed to read keyd's configuration
        return str(self.settings().socket)

    def ask[Reply](
        self, question: Callable[[KeydClient], Awaitable[Reply]], *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Reply:
        """Puts one question (or several, on the same connection) to keyd. Raises CliError."""
        socket = self.socket()

        async def conversation() -> Reply:
            async with KeydClient(socket, timeout_s=timeout_s) as keyd:
                return await question(keyd)

        try:
            return asyncio.run(conversation())
        except (KeydUnreachable, KeydRefused, KeydProtocolError) as error:
            raise keyd_fault(error, socket) from error


def load_settings(file: Path) -> Settings:
    """Raises CliError if the file cannot be read or is not valid."""
    try:
        return load(file)
    except ConfigError as error:
        raise CliError(str(error), error.hint) from error


def _readable(file: Path) -> bool:
    try:
        with file.open("rb"):
            return True
    except OSError:
        return False


invocation = click.make_pass_decorator(Invocation)
