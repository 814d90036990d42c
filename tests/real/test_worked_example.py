"""docs/worked-example.md shows what `make demo-agent` shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/worked-example.md").read_text("utf-8")


def lasting(transcript: str) -> list[str]:
    """The words of a transcript, without what each run picks anew: ports, keys, ids, moments, this user."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", transcript)
    text = re.sub(r"0x(?!0000|90F7)[0-9a-fA-F]{40}", "ADDRESS", text)
    text = re.sub(r"(?<=research/)[0-9a-f]{16}|\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}Z|\d{4}-\d{2}-\d{2}(?= \(UTC\))", "MOMENT", text)
    text = re.sub(r"uid([: ])\d+", r"uid\1N", text)
    return re.sub(r"verified: \d+ entries", "verified: N entries", text).split()


def test_an_agent_that_does_all_that_a_page_says_gets_what_it_was_given_and_no_more() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo.with_agent"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    played = done.stdout.removesuffix("\nNothing is left running, and nothing on disk.\n")
    assert lasting(played) == lasting(shown)


def test_the_comparison_of_transcripts_sees_a_limit_that_changed() -> None:
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert lasting(shown) != lasting(shown.replace("cap_per_payment", "paid"))
    assert lasting(shown) != lasting(shown.replace("$0.006", "$0.106"))
    assert lasting(shown) == lasting(shown.replace("127.0.0.1:", "127.0.0.1:1"))
