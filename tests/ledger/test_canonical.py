"""RFC 8785, as far as a ledger needs it."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import canonical
from ledger.errors import CanonicalError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({}, "{}", id="empty object"),
        pytest.param([], "[]", id="empty list"),
        pytest.param([None, True, False, 0, -1], "[null,true,false,0,-1]", id="literals"),
        pytest.param(2**53 - 1, "9007199254740991", id="largest integer"),
        pytest.param({"b": [{"z": 1, "a": 2}], "a": {}}, '{"a":{},"b":[{"a":2,"z":1}]}', id="nested order"),
        pytest.param({"peach": 1, "péché": 2, "pêche": 3}, '{"peach":1,"péché":2,"pêche":3}', id="no locale"),
        pytest.param({"a": 1, "B": 2, "aa": 3, "": 4}, '{"":4,"B":2,"a":1,"aa":3}', id="prefix first"),
        pytest.param("/", '"/"', id="slash is not escaped"),
        pytest.param("\x7f\x80\u2028", '"\x7f\x80\u2028"', id="only C0 controls are escaped"),
        pytest.param(
            "".join(map(chr, range(0x20))),
            '"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f'
            "\\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c"
            '\\u001d\\u001e\\u001f"',
            id="all C0 controls, short forms where JSON has them, lower-case hex",
        ),
        # RFC 8785 section 3.2.2.2
        pytest.param('\u20ac$\x0f\nA\'B"\\\\"/', '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"', id="RFC string"),
        # RFC 8785 section 3.2.3: the emoji's surrogates (D83D DE00) sort before U+FB33
        pytest.param(
            {
                "\u20ac": "Euro Sign",
                "\r": "Carriage Return",
                "\ufb33": "Hebrew Letter Dalet With Dagesh",
                "1": "One",
                "\U0001f600": "Emoji: Grinning Face",
                "\x80": "Control",
                "ö": "Latin Small Letter O With Diaeresis",
            },
            '{"\\r":"Carriage Return","1":"One","\x80":"Control","ö":"Latin Small Letter O With Diaeresis",'
            '"\u20ac":"Euro Sign","\U0001f600":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}',
            id="RFC key order",
        ),
    ],
)
def test_a_value_has_these_bytes(value: object, expected: str) -> None:
    assert canonical.encode(value) == expected.encode()
    assert canonical.decode(expected.encode()) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(0.0, id="float"),
        pytest.param(float("nan"), id="NaN"),
        pytest.param(2**53, id="integer beyond 2^53-1"),
        pytest.param(-(2**53), id="negative integer beyond 2^53-1"),
        pytest.param("\ud83d", id="lone surrogate"),
        pytest.param({"\udc00": 1}, id="lone surrogate in a key"),
        pytest.param({1: "a"}, id="key that is no string"),
        pytest.param({None: "a"}, id="null key"),
        pytest.param((1, 2), id="tuple"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param({"a": [object()]}, id="object"),
    ],
)
def test_a_value_without_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(CanonicalError):
        canonical.encode(value)
    with pytest.raises(CanonicalError):
        canonical.encode({"nested": [value]})


def test_nesting_ends_in_an_error_and_not_in_a_recursion_error() -> None:
    def nested(levels: int) -> Any:
        value: Any = "core"
        for _ in range(levels):
            value = [value]
        return value

    assert canonical.decode(canonical.encode(nested(canonical.MAX_DEPTH))) == nested(canonical.MAX_DEPTH)
    with pytest.raises(CanonicalError, match="nested deeper"):
        canonical.encode(nested(canonical.MAX_DEPTH + 1))
    with pytest.raises(CanonicalError):
        canonical.decode(b"[" * 100_000)


def test_a_member_of_a_string_enum_is_its_string() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    assert canonical.encode({"colour": Colour.RED}) == b'{"colour":"red"}'


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"a":1,"a":1}', id="duplicate key"),
        pytest.param('{"b":1,"a":1}', id="keys out of order"),
        pytest.param('{"a": 1}', id="white space"),
        pytest.param('"\\u0041"', id="needless escape"),
        pytest.param('"\\u000F"', id="upper-case escape"),
        pytest.param('"\\/"', id="escaped slash"),
        pytest.param('"\\ud800"', id="escaped lone surrogate"),
        pytest.param("1.0", id="float"),
        pytest.param("1e2", id="exponent"),
        pytest.param("-0", id="negative zero"),
        pytest.param("NaN", id="NaN"),
        pytest.param("9" * 5000, id="integer without end"),
        pytest.param("", id="nothing"),
        pytest.param("{}\n", id="line end"),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(text: str) -> None:
    with pytest.raises(CanonicalError):
        canonical.decode(text.encode())


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(CanonicalError):
        canonical.decode(b'"\xff"')


@given(VALUES)
def test_canonical_bytes_parse_back_to_the_same_value_and_are_stable(value: object) -> None:
    encoded = canonical.encode(value)
    assert canonical.decode(encoded) == value
    assert json.loads(encoded) == value
    assert canonical.encode(json.loads(encoded)) == encoded


@given(VALUES)
def test_the_short_way_gives_the_bytes_of_the_long_one(value: object) -> None:
    long_way = json.dumps(canonical._sorted(value, 0), ensure_ascii=False, separators=(",", ":"))
    encoded, parsed = canonical.encode_and_parse(value)
    assert encoded == long_way.encode()
    assert parsed == value


@pytest.mark.parametrize("value", [{"a": [True, 1, None]}, {"a": {"é": 1}}])
def test_what_is_parsed_is_nobody_elses(value: dict[str, Any]) -> None:
    _, parsed = canonical.encode_and_parse(value)
    value["a"].clear()
    assert parsed != value


@given(st.dictionaries(TEXT, st.none(), max_size=8), st.randoms())
def test_the_order_in_which_keys_were_added_does_not_matter(value: dict[str, None], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert canonical.encode(dict.fromkeys(keys)) == canonical.encode(value)


@given(st.binary(max_size=30) | TEXT.map(str.encode))
def test_any_bytes_are_a_value_or_a_typed_error(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except CanonicalError:
        return
    assert canonical.encode(value) == data
