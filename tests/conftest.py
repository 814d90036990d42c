"""For all tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.scratch import suits

# Before anything asks for a temporary folder.
if not suits(Path(tempfile.gettempdir())):
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"

# A shared machine may stall any one example: a deadline would report the machine, not the code.
settings.register_profile("osmoda", deadline=None)
settings.load_profile("osmoda")


@pytest.fixture(autouse=True, scope="session")
def _no_proxy_of_the_machine() -> None:
    """Every proxy in a test is one that the test started; none of the machine's may stand in between."""
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            del os.environ[name]
