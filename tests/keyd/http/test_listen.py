"""The socket that keyd binds by itself."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from keyd.configfile import ConfigError
from keyd.http.unix_socket import listen


def test_the_socket_has_its_mode_and_its_folder_lets_others_through(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        path = tmp_path / "run" / "keyd.sock"
        with listen(path, 0o660):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    finally:
        os.umask(previous)


def test_what_a_dead_keyd_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keyd.sock"
    listen(path, 0o600).close()
    with listen(path, 0o600) as again:
        again.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_the_socket_of_a_living_keyd_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "keyd.sock"
    with listen(path, 0o600) as living:
        living.listen()
        with pytest.raises(ConfigError, match="another keyd answers"):
            listen(path, 0o600)
        assert path.exists()
