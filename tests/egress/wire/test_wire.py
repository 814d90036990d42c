"""The pure parsers: liberal where servers differ, strict where two readers could disagree, and never a crash."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire import strictjson, x402
from egress.wire.fingerprint import fingerprint
from tests.egress.support.wire import OFFER, TERMS, TERMS_V1, TX, encode

ID = "0a" * 16
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# -- terms ---------------------------------------------------------------------------------------------------


def test_terms_are_read_from_the_header() -> None:
    required = x402.read_payment_required([encode(TERMS)], b"whatever")
    assert (required.version, required.accepts) == (2, (OFFER,))
    assert required.resource_url == "https://seller.example/a"


@pytest.mark.parametrize(
    "spelling",
    [
        lambda value: value.rstrip("="),
        lambda value: value.replace("+", "-").replace("/", "_"),
        lambda value: f"  {value[:9]} {value[9:]}\t",
        lambda value: value + "==",
    ],
    ids=["no padding", "urlsafe alphabet", "white space", "too much padding"],
)
def test_base64_is_read_liberally(spelling: Any) -> None:
    plain = b64(json.dumps({**TERMS, "error": "ÿþ?>~"}, ensure_ascii=False))
    assert x402.read_payment_required([spelling(plain)], b"").error == "ÿþ?>~"


def test_the_header_wins_over_the_body() -> None:
    assert x402.read_payment_required([encode(TERMS)], json.dumps(TERMS_V1).encode()).version == 2


@pytest.mark.parametrize("headers", [[], ["%%%"], ["e30="], [encode(TERMS), encode(TERMS)]])
def test_without_a_usable_header_the_body_counts(headers: list[str]) -> None:
    required = x402.read_payment_required(headers, json.dumps(TERMS_V1).encode())
    assert required.version == 1
    assert required.resource_url == "https://s.example/v1"


def test_version_2_terms_in_the_body_are_tolerated() -> None:
    assert x402.read_payment_required([], json.dumps(TERMS).encode()).version == 2


def test_a_header_without_version_is_version_2_and_a_body_without_one_is_not_x402() -> None:
    terms = {"accepts": [OFFER]}
    assert x402.read_payment_required([encode(terms)], b"").version == 2
    with pytest.raises(x402.X402Error, match="unknown x402Version"):
        x402.read_payment_required([], json.dumps(terms).encode())


def test_offers_are_not_judged_here() -> None:
    entries = [{"amount": -1}, "nonsense", None, 7, OFFER]
    assert x402.read_payment_required([encode({**TERMS, "accepts": entries})], b"").accepts == tuple(entries)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"x402Version":2,"accepts":[{}],"accepts":[{}]}', "duplicate key"),
        ('{"x402Version":2,"accepts":[{"amount":"1","amount":"9"}]}', "duplicate key"),
        ('{"x402Version":2,"accepts":[{"amount":NaN}]}', "NaN"),
        ('{"x402Version":2,"accepts":[{"amount":-Infinity}]}', "Infinity"),
        ('{"x402Version":2,"accepts":[1e999]}', "out of range"),
        ('{"x402Version":2,"accepts":["\\ud800"]}', "surrogate"),
        ('{"x402Version":2,"accepts":[' + "1" * 5000 + "]}", "not valid JSON"),
        ('{"x402Version":2,"accepts":[' + "[" * 100 + "]" * 100 + "]}", "nested"),
        ('{"x402Version":2,"accepts":[' + "[" * 63 + "]" * 63 + "]}", "nested"),
        ('{"x402Version":2,"accepts":[{}, "' + "x" * 99 + '\\udc00"]}', "surrogate"),
        ('{"x402Version":2,"accepts":[{"a":[{"\\ud800":1}]}]}', "surrogate"),
        ('{"x402Version":2,"accepts":' + "[" * 40000 + "]" * 40000 + "}", "nested"),
        ('{"x402Version":2,"accepts":[]}', "no accepts"),
        ('{"x402Version":2,"accepts":{}}', "no accepts"),
        ('{"x402Version":true,"accepts":[{}]}', "unknown x402Version"),
        ('{"x402Version":"2","accepts":[{}]}', "unknown x402Version"),
        ('{"x402Version":3,"accepts":[{}]}', "unknown x402Version"),
        ("[]", "not an object"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
    ],
)
def test_ambiguous_or_unbounded_terms_are_refused(text: str, fault: str) -> None:
    for headers, body in (([b64(text)], b""), ([], text.encode())):
        with pytest.raises(x402.X402Error, match=fault):
            x402.read_payment_required(headers, body)


def test_terms_are_bounded_and_64_kib_is_within_the_bounds() -> None:
    large = {**TERMS, "error": "x" * 64 * 1024}
    assert len(encode(large)) > 64 * 1024
    assert x402.read_payment_required([encode(large)], b"").version == 2
    with pytest.raises(x402.X402Error, match="header: too large"):
        x402.read_payment_required([encode({**TERMS, "error": "x" * x402.MAX_HEADER})], b"")
    with pytest.raises(x402.X402Error, match="body: too large"):
        x402.read_payment_required([], json.dumps({**TERMS_V1, "error": "x" * x402.MAX_BODY}).encode())


# -- payment -------------------------------------------------------------------------------------------------


def test_version_2_echoes_the_offer_resource_and_extensions_verbatim() -> None:
    terms = {**TERMS, "extensions": {"e": {"info": {"k": [1, "ü"]}, "schema": {}}}}
    required = x402.read_payment_required([encode(terms)], b"")
    header = x402.encode_payment(required, 0, {"signature": "0x1"}, ID)
    assert header.name == "PAYMENT-SIGNATURE"
    assert json.loads(base64.b64decode(header.value, validate=True)) == {
        "x402Version": 2,
        "accepted": OFFER,
        "payload": {"signature": "0x1"},
        "resource": terms["resource"],
        "extensions": terms["extensions"],
    }


def test_version_1_names_scheme_and_network_only() -> None:
    required = x402.read_payment_required([], json.dumps(TERMS_V1).encode())
    header = x402.encode_payment(required, 0, {"signature": "0x1"}, ID)
    assert header.name == "X-PAYMENT"
    assert json.loads(base64.b64decode(header.value)) == {
        "x402Version": 1,
        "scheme": "exact",
        "network": "base-sepolia",
        "payload": {"signature": "0x1"},
    }


def test_a_payment_cannot_be_printed() -> None:
    header = x402.encode_payment(x402.PaymentRequired(2, (OFFER,)), 0, {"signature": "0xsecret"}, ID)
    assert header.value not in repr(header)
    assert header.value not in f"{header}"


@pytest.mark.parametrize("accepted", [-1, 1, 99])
def test_an_offer_that_does_not_exist_is_refused(accepted: int) -> None:
    with pytest.raises(x402.X402Error, match="no such offer"):
        x402.encode_payment(x402.PaymentRequired(2, (OFFER,)), accepted, {}, ID)


@pytest.mark.parametrize("entry", ["text", {}, {"scheme": "exact"}])
def test_a_version_1_offer_without_names_is_refused(entry: Any) -> None:
    with pytest.raises(x402.X402Error, match="scheme or network"):
        x402.encode_payment(x402.PaymentRequired(1, (entry,)), 0, {}, ID)


# -- settlement ----------------------------------------------------------------------------------------------


def test_a_settlement_is_read_as_received() -> None:
    settlement = x402.read_settlement([encode({"success": True, "transaction": TX, "new": 1})])
    assert settlement == {"success": True, "transaction": TX, "new": 1}
    assert x402.transaction_hash(settlement) == TX


@pytest.mark.parametrize("values", [[], ["%"], ["W10="], [encode({}), encode({})], ["Infinity"]])
def test_an_unreadable_settlement_is_no_settlement(values: list[str]) -> None:
    assert x402.read_settlement(values) is None


@pytest.mark.parametrize("transaction", [None, "", 7, "0x12", TX + "0", TX[:-1] + "g", TX + "\r\nX-Evil: 1"])
def test_only_a_well_formed_transaction_hash_is_shown(transaction: Any) -> None:
    assert x402.transaction_hash({"transaction": transaction}) is None


# -- properties ----------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=300), max_size=2), st.binary(max_size=300))
def test_no_terms_raise_anything_but_the_typed_error(headers: list[str], body: bytes) -> None:
    with contextlib.suppress(x402.X402Error):
        assert x402.read_payment_required(headers, body).accepts
    x402.read_settlement(headers)


@given(JSON)
def test_any_json_as_terms_gives_terms_or_the_typed_error(value: Any) -> None:
    with contextlib.suppress(x402.X402Error):
        assert x402.read_payment_required([encode(value)], json.dumps(value).encode()).accepts


@given(JSON)
def test_any_offer_is_echoed_as_it_came(entry: Any) -> None:
    required = x402.read_payment_required([b64(json.dumps({"x402Version": 2, "accepts": [entry]}))], b"")
    header = x402.encode_payment(required, 0, {"signature": "0x"}, ID)
    assert json.loads(base64.b64decode(header.value))["accepted"] == entry


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_strict_json_raises_nothing_but_its_error(text: str | bytes) -> None:
    with contextlib.suppress(strictjson.JsonError):
        strictjson.loads(text)


# -- fingerprint ---------------------------------------------------------------------------------------------


def test_the_fingerprint_tells_every_part_of_a_request_apart() -> None:
    requests = [
        ("GET", "https://a/b", b""),
        ("POST", "https://a/b", b""),
        ("GET", "https://a/b?", b""),
        ("GET", "https://a/b?c", b""),
        ("GET", "https://a/", b"b"),
        ("GET", "https://a/b", b"0:"),
        ("GE", "Thttps://a/b", b""),
    ]
    assert len({fingerprint(*request) for request in requests}) == len(requests)


def test_the_fingerprint_is_what_its_description_says() -> None:
    encoding = b"osmoda-x402/request-fingerprint/v1\n4:POST23:https://a.example/b?c=d4:body"
    expected = hashlib.sha256(encoding).hexdigest()
    assert fingerprint("POST", "https://a.example/b?c=d", b"body") == expected


@given(st.tuples(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5)), st.data())
def test_moving_a_byte_between_parts_changes_the_fingerprint(
    parts: tuple[str, str, bytes], data: st.DataObject
) -> None:
    method, url, body = parts
    other = data.draw(st.tuples(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5)))
    assert (fingerprint(method, url, body) == fingerprint(*other)) == (parts == other)
