"""What a form matches is canonical, and has the same keys, nesting and types as the text it was made of."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger import canonical
from ledger.errors import CanonicalError
from ledger.forms import Form, Path, form_of

PLAIN = st.text([c for c in map(chr, range(32, 127)) if c not in '"\\'], max_size=6)
QUOTING = st.text([*map(chr, range(32, 127)), '"', "\\"], max_size=6)
NATURAL = st.integers(0, 10**15 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | NATURAL | QUOTING,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(QUOTING, inner, max_size=3),
    max_leaves=12,
)
SPLICES = st.text(string.digits + '{}[]",:\\ -.eEtrufalsn\n\x00é😀', max_size=4)


def form(value: object, **asked: Any) -> Form:
    found = form_of(canonical.encode(value).decode(), **({"strings": {}, "captured": ()} | asked))
    assert found is not None
    return found


def skeleton(value: object) -> object:
    """All of `value` that a form holds fast."""
    match value:
        case dict():
            return {key: skeleton(member) for key, member in value.items()}
        case list():
            return [skeleton(item) for item in value]
        case bool() | None:
            return value
        case _:
            return type(value)


@given(VALUES, st.data())
def test_a_form_matches_its_text_and_every_other_of_the_same_form(value: Any, data: st.DataObject) -> None:
    def other(value: object) -> object:
        match value:
            case dict():
                return {key: other(member) for key, member in value.items()}
            case list():
                return [other(item) for item in value]
            case bool() | None:
                return value
            case int():
                return data.draw(NATURAL)
            case str() if set(value) & set('"\\'):
                return data.draw(QUOTING)
            case _:
                return data.draw(PLAIN)

    pattern = form(value).pattern
    assert pattern.fullmatch(canonical.encode(value).decode())
    assert pattern.fullmatch(canonical.encode(other(value)).decode())


@given(VALUES, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), SPLICES), min_size=1, max_size=3))
@example({"a": 1}, [(5, 0, "0")])  # 01
@example({"a": 0}, [(5, 0, "-")])  # -0
@example({"a": 1}, [(6, 0, ".0")])
@example({"a": 1}, [(6, 0, "0" * 16)])
@example({"a": ""}, [(6, 0, "\\/")])
@example({"a": '"'}, [(6, 0, "\\/")])
@example({"a": '"'}, [(7, 0, "u0022")])
@example({"a": '"'}, [(7, 1, "")])
@example({"a": ""}, [(6, 0, '","b":"')])
def test_what_a_form_matches_is_canonical_and_of_the_form(
    value: Any, splices: list[tuple[int, int, str]]
) -> None:
    """Characters are put in, left out and replaced at any place of the text."""
    text = canonical.encode(value).decode()
    for place, length, new in splices:
        place = min(place, len(text))
        text = text[:place] + new + text[place + length :]
    if form(value).pattern.fullmatch(text):
        assert skeleton(canonical.decode(text.encode())) == skeleton(value)
    else:
        try:
            parsed = canonical.decode(text.encode())
        except CanonicalError:
            return
        unusual = any(c in text for c in "\\-é😀") or any(len(run) > 15 for run in _digits(text))
        assert unusual or skeleton(parsed) != skeleton(value)


def _digits(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


@settings(max_examples=50)
@given(st.dictionaries(PLAIN, VALUES, min_size=1, max_size=3), st.data())
def test_what_is_captured_are_the_values_asked_for(value: dict[str, Any], data: st.DataObject) -> None:
    captured: set[Path] = {(key,) for key in data.draw(st.sets(st.sampled_from(sorted(value))))}
    found = form(value, captured=captured)
    groups = found.pattern.fullmatch(canonical.encode(value).decode())
    assert groups is not None
    assert found.groups.keys() == captured
    for (key,), place in found.groups.items():
        member = value[str(key)]
        text = canonical.encode(member).decode()
        expected = text[1:-1] if isinstance(member, str) else text
        assert groups.groups()[place] == expected


@pytest.mark.parametrize("value", [{"a": "é"}, {"é": 1}, {"a": -1}, {"a": 10**15}, {"a": "\x1f"}])
def test_a_text_with_anything_unusual_has_no_form(value: object) -> None:
    assert form_of(canonical.encode(value).decode(), strings={}, captured=()) is None


def test_a_string_may_have_a_pattern_of_its_own() -> None:
    pattern = form({"a": "12", "b": "12"}, strings={("a",): "1|12"}).pattern
    assert pattern.fullmatch('{"a":"12","b":"x"}')
    assert pattern.fullmatch('{"a":"1","b":""}')
    assert pattern.fullmatch('{"a":"2","b":""}') is None


@given(st.text('{}[]",:0a\\', max_size=12))
def test_no_key_is_taken_for_a_pattern(key: str) -> None:
    pattern = form({key: 1}).pattern
    assert pattern.fullmatch(canonical.encode({key: 2}).decode())
    assert pattern.fullmatch(canonical.encode({key + ".": 2}).decode()) is None
