"""The fuzz targets, as far as CI has time: every case found so far, what is like it, and what hypothesis thinks of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.proxy import Exchange
from tests.fuzz.targets import REQUEST, TARGETS

CORPUS = Path(__file__).parent / "corpus"
CASES = {name: sorted((CORPUS / name).iterdir()) for name in TARGETS}

every_target = pytest.mark.parametrize("name", TARGETS)


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}-{case.name}") for name in CASES for case in CASES[name]],
)
def test_a_known_case_keeps_the_promises(name: str, case: Path) -> None:
    TARGETS[name](case.read_bytes())


@every_target
@given(data=st.binary(max_size=300))
def test_no_bytes_break_a_promise(name: str, data: bytes) -> None:
    TARGETS[name](data)


@every_target
@given(data=st.data())
def test_nothing_like_a_known_case_breaks_a_promise(name: str, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([case.read_bytes() for case in CASES[name]]))
    start = data.draw(st.integers(0, len(case)))
    end = data.draw(st.integers(start, min(len(case), start + 20)))
    TARGETS[name](case[:start] + data.draw(st.binary(max_size=20)) + case[end:])


def test_the_targets_reach_what_they_are_about() -> None:
    """A target that gives up at the first byte promises nothing: its seed must come through to a payment."""
    first, _, second = (CORPUS / "answer/paid").read_bytes().partition(b"\0\0")
    exchange = Exchange(REQUEST)
    exchange.serve(first, second)
    assert (len(exchange.signed), exchange.paid) == (1, 1)
    assert b"X-402-Egress: paid; " in exchange.received
