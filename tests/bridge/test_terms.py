"""The bridge reads terms as egress does: a quote must be about what would be paid."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.terms import MAX_DEPTH, loads, read_terms
from egress.wire import x402

OFFER = {"scheme": "exact", "network": "eip155:8453", "amount": "1", "description": "words"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
REQUIRED = st.fixed_dictionaries(
    {},
    optional={
        "x402Version": st.sampled_from([1, 2, 3, True, "2", None]),
        "accepts": st.lists(st.just(OFFER) | JSON, max_size=3) | JSON,
        "resource": st.just({"url": "u", "description": "words"}) | JSON,
    },
)


def as_header(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def by_egress(headers: list[str], body: bytes) -> tuple[int, tuple[Any, ...]] | None:
    try:
        found = x402.read_payment_required(headers, body)
    except x402.X402Error:
        return None
    return found.version, found.accepts


def by_bridge(headers: list[str], body: bytes) -> tuple[int, tuple[Any, ...]] | None:
    found = read_terms(headers, body)
    return None if found is None else (found.version, found.accepts)


FLAT = {
    "amount": "0.01",
    "asset": "USDC",
    "chain": "base",
    "payTo": "0x" + "22" * 20,
    "expiry": 1_800_000_000,
}


@given(st.sampled_from([FLAT, FLAT | {"accepts": [OFFER]}, {"amount": "1"}]) | REQUIRED, st.booleans())
def test_it_knows_the_flat_form_where_egress_does(value: dict[str, Any], switched_on: bool) -> None:
    headers = [as_header(value)]
    found = read_terms(headers, b"", flat_dialect=switched_on)
    try:
        paid = x402.read_payment_required(headers, b"", flat_dialect=switched_on)
    except x402.X402Error:
        assert found is None
    else:
        assert found is not None
        assert (found.dialect, found.accepts) == (paid.dialect, paid.accepts)


@given(st.lists(REQUIRED.map(as_header) | st.text(max_size=20), max_size=2), REQUIRED | JSON)
def test_it_reads_what_egress_reads(headers: list[str], body: object) -> None:
    encoded = json.dumps(body).encode()
    assert by_bridge(headers, encoded) == by_egress(headers, encoded)


@pytest.mark.parametrize(
    "body",
    [
        b'{"x402Version": 1, "x402Version": 2, "accepts": [{}]}',
        b'{"x402Version": 2, "accepts": [NaN]}',
        b'{"x402Version": 2, "accepts": [1e999]}',
        b'{"x402Version": 2, "accepts": ["\\ud800"]}',
        b'{"x402Version": 2, "accepts": [' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"]}",
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(body: bytes) -> None:
    assert by_bridge([], body) is None
    assert by_egress([], body) is None
    assert by_bridge([as_header({"accepts": [OFFER]})], body) == (2, (OFFER,))


def test_the_sellers_words_are_found_in_both_versions() -> None:
    second = {"x402Version": 2, "accepts": [OFFER], "resource": {"description": "of the resource"}}
    found = read_terms([as_header(second)], b"")
    assert found is not None
    assert found.description == "of the resource"
    first = read_terms([], json.dumps({"x402Version": 1, "accepts": [OFFER]}).encode())
    assert first is not None
    assert first.description == "words"


def test_depth_is_bounded() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert loads(deep) is not None
    assert loads(f"[{deep}]") is None
