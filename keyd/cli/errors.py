"""Faults in the words of keyctl: what went wrong, and the way out. One place turns exceptions into them."""

from __future__ import annotations

import errno
import os

import click

from keyd.cli.program import as_called
from keyd.cli.render import escaped
from keyd.client import KeydProtocolError, KeydRefused, KeydUnreachable


class CliError(Exception):
    """Something the person at the terminal can act on. `hint` says how; it may be missing, never misleading."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def report(message: str, hint: str | None = None, *, kind: str = "error") -> None:
    """Writes `keyctl: error: …` and `keyctl: hint: …` to stderr. `kind` may be "warning"."""
    colour = {"error": "red", "warning": "yellow"}[kind]
    _complain(click.style(kind, fg=colour), message)
    if hint:
        _complain(click.style("hint", fg="cyan"), hint)


def _complain(kind: str, text: str) -> None:
    click.echo(f"keyctl: {kind}: {escaped(as_called(text))}", err=True, color=colour_wanted())


def colour_wanted() -> bool | None:
    """None lets click decide: colours on a terminal only. NO_COLOR (no-color.org) switches them off there."""
    return False if os.environ.get("NO_COLOR") else None


def os_fault(what: str, error: OSError) -> CliError:
    """`cannot open FILE: permission denied`, without Python's `[Errno 13]`."""
    return CliError(f"{what}: {_reason(error.errno) or error}")


def keyd_fault(error: KeydUnreachable | KeydRefused | KeydProtocolError, socket: str) -> CliError:
    """What it means for the person that keyd did not answer, or answered no."""
    if isinstance(error, KeydRefused):
        return CliError(f"{error.refusal.detail} ({error.refusal.code})", error.refusal.hint or None)
    if isinstance(error, KeydProtocolError):
        return CliError(
            f"keyd on {socket} does not speak this keyctl's protocol: {error}",
            "keyctl and keyd must be of the same version: `keyctl --version`, then restart osmoda-keyd",
        )
    return _unreachable(error, socket)


def _unreachable(error: KeydUnreachable, socket: str) -> CliError:
    cause = error.__cause__
    if isinstance(cause, TimeoutError):
        return CliError(
            f"keyd on {socket} did not answer in time",
            "look at its log: `journalctl -u osmoda-keyd`",
        )
    code = cause.errno if isinstance(cause, OSError) else None
    message = f"cannot open {socket}: {_reason(code) or error}"
    return CliError(message, _SOCKET_HINTS.get(code, "look at `systemctl status osmoda-keyd`"))


_NO_ACCESS = 'run as root, or as a member of both groups "osmoda" and "osmoda-admin"'
_SOCKET_HINTS: dict[int | None, str] = {
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.ENOENT: "start keyd (`systemctl restart osmoda-keyd.socket`), or name the `socket` of its keyd.toml with --socket",
    errno.ECONNREFUSED: "nobody listens there: `systemctl restart osmoda-keyd.socket`, and `journalctl -u osmoda-keyd` "
    "says why keyd stopped",
}


def _reason(code: int | None) -> str | None:
    return None if not code else os.strerror(code).lower()
