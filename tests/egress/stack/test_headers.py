"""Fields are found as mitmproxy finds them, only sooner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.coretypes.multidict import MultiDict

from egress.stack import headers

NAMES = st.sampled_from([b"Host", b"host", b"HOST", b"x-402-max", b"\xff\xfeOdd", b""])
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=5).map(tuple)


def stock(fields: http.Headers, name: bytes) -> list[str]:
    values: list[bytes] = MultiDict.get_all(fields, name)
    return [value.decode("utf-8", "surrogateescape") for value in values]


@given(FIELDS, NAMES)
def test_what_is_found_is_what_mitmproxy_finds(fields: tuple[tuple[bytes, bytes], ...], name: bytes) -> None:
    found, expected = http.Headers(fields), stock(http.Headers(fields), name)
    for spelling in (name, name.decode("utf-8", "surrogateescape")):
        assert headers.get_all(found, spelling) == expected
        assert headers.contains(found, spelling) is bool(expected)
        assert headers.get(found, spelling, "none") == (", ".join(expected) if expected else "none")


def test_what_is_no_name_is_not_found() -> None:
    assert not headers.contains(http.Headers([(b"1", b"one")]), 1)
