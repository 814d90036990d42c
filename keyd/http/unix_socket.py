"""The Unix socket that keyd binds by itself, where no service manager passes one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from keyd.configfile import ConfigError


def listen(path: Path, mode: int) -> socket.socket:
    """A listening Unix socket; one that a dead keyd left behind is replaced. Raises ConfigError if one answers."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)  # for peers of other users; the socket's own mode says who may connect
    if _answers(path):
        hint = "stop the other keyd, or give this one its own `socket` in keyd.toml"
        raise ConfigError(f"another keyd answers on {path}", hint)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)  # nobody may connect before the mode is right
    try:
        listener.bind(str(path))
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.umask(previous)
    path.chmod(mode)
    return listener


def _answers(path: Path) -> bool:
    """Taking the socket of a keyd that lives (with another ledger) would send its clients to us, unawares."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True
