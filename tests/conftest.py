"""For all tests."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.midnight import pause_before
from tests.scratch import suits

# Before anything asks for a temporary folder.
if not suits(Path(tempfile.gettempdir())):
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"

# No deadlines, and the same examples in each run: a shared machine may stall any one of them, and whoever changes the
# README should not be told of a parser. New ones are looked for by `make fuzz`, and by `--hypothesis-profile=default`.
settings.load_profile("ci")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-timeout begins to count
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    marker = item.get_closest_marker("timeout")
    longest_s = float(marker.args[0] if marker else item.config.getini("timeout"))
    time.sleep(pause_before(time.time(), longest_s))
    return (yield)


@pytest.fixture(autouse=True, scope="session")
def _no_proxy_of_the_machine() -> None:
    """Every proxy in a test is one that the test started; none of the machine's may stand in between."""
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            del os.environ[name]
