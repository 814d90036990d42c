"""Decimal strings at the edges, integers inside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.core import money

ATOMIC = st.integers(1, 2**256 - 1)


@given(st.integers(0, 10**18 - 1))
def test_usd_survives_a_round_trip_through_text(micros: int) -> None:
    assert money.parse_usd(money.format_usd(micros)) == micros


@pytest.mark.parametrize(
    ("text", "micros"), [("1.00", 1_000_000), ("0.001", 1000), ("0", 0), ("12", 12_000_000)]
)
def test_usd_strings_are_read_exactly(text: str, micros: int) -> None:
    assert money.parse_usd(text) == micros


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1.0000001", ".5", "1.", " 1", "1,0", "NaN", "0x1", "١"]
)
def test_anything_else_is_no_usd_amount(text: str) -> None:
    with pytest.raises(ValueError, match="not a USD amount"):
        money.parse_usd(text)


@given(ATOMIC)
def test_atomic_amounts_are_read_as_they_are_written(value: int) -> None:
    assert money.parse_atomic(str(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "1e6",
        "0x10",
        " 1",
        "1 ",
        "01",
        "1.5",
        "0",
        "",
        str(2**256),
        "9" * 5000,
        "１",
        "١",
        "1_000",
        1,
        1.0,
        None,
        True,
    ],
)
def test_hostile_amounts_are_refused_without_another_exception(text: object) -> None:
    with pytest.raises(ValueError, match="not a positive decimal integer"):
        money.parse_atomic(text)


@given(st.text())
def test_no_text_makes_the_amount_parser_do_anything_but_refuse(text: str) -> None:
    try:
        value = money.parse_atomic(text)
    except ValueError:
        return
    assert str(value) == text


@given(ATOMIC, st.integers(0, 36))
def test_token_amounts_survive_a_round_trip_through_text(atomic: int, decimals: int) -> None:
    assert money.parse_token_amount(money.format_token_amount(atomic, decimals), decimals) == atomic


def test_a_token_amount_finer_than_the_token_is_refused_not_rounded() -> None:
    assert money.parse_token_amount("0.000001", 6) == 1
    with pytest.raises(ValueError, match="more than 6 decimal places"):
        money.parse_token_amount("0.0000001", 6)


@given(ATOMIC, st.integers(0, 36), st.integers(1, 10**12))
def test_usd_is_rounded_up_and_never_by_more_than_a_micro(atomic: int, decimals: int, price: int) -> None:
    micros = money.usd_micros(atomic, decimals, price)
    assert (micros - 1) * 10**decimals < atomic * price <= micros * 10**decimals


def test_the_smallest_unit_of_an_18_decimals_token_is_not_free() -> None:
    assert money.usd_micros(1, 18, 1_000_000) == 1
