"""What a payment echoes of the seller's extensions, and what it gives up before it could not be sent at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire import extensions, x402
from tests.egress.conftest import World
from tests.egress.support.keyd import reply_to
from tests.egress.support.upstream import selling
from tests.egress.support.wire import OFFER, TERMS, TERMS_V1, decode, encode, paid_answer, response

ID = "0a" * 16
SMALL = {"info": {"k": 1}, "schema": {"type": "object"}}
BIG_SCHEMA = {"info": {"k": 1}, "schema": {"text": "x" * 6000}}
BIG_INFO = {"info": {"text": "x" * 6000}}
IDENTIFIER = {"info": {"required": True}, "schema": {"type": "object"}}


def echoed(offered: dict[str, Any]) -> Any:
    required = x402.PaymentRequired(2, (OFFER,), extensions=offered)
    header = x402.encode_payment(required, 0, {}, ID)
    assert len(header.value) <= x402.MAX_PAYMENT_HEADER
    return json.loads(base64.b64decode(header.value)).get("extensions")


def test_extensions_are_echoed_unchanged_while_there_is_room() -> None:
    offered = {"bazaar": SMALL, "other": SMALL, "odd": ["not", {"an": "object"}]}
    assert echoed(offered) == offered


def test_catalogue_data_goes_first_then_schemas_then_the_largest_entries() -> None:
    assert echoed({"bazaar": BIG_SCHEMA, "other": SMALL}) == {"other": SMALL}
    assert echoed({"other": BIG_SCHEMA, "small": SMALL}) == {
        "other": {"info": {"k": 1}},
        "small": {"info": {"k": 1}},
    }
    assert echoed({"other": BIG_INFO, "small": SMALL}) == {"small": {"info": {"k": 1}}}
    assert echoed({"bazaar": BIG_INFO}) is None


def test_a_payment_identifier_is_answered_and_nothing_else_changes() -> None:
    answer = echoed({"payment-identifier": IDENTIFIER, "other": SMALL})
    assert answer["payment-identifier"] == {**IDENTIFIER, "info": {"required": True, "id": f"pay_{ID}"}}
    assert answer["other"] == SMALL


@pytest.mark.parametrize("entry", [None, 7, {}, {"info": None}, {"info": {"id": "theirs", "required": True}}])
def test_a_payment_identifier_that_leaves_no_room_for_ours_is_echoed_as_it_came(entry: Any) -> None:
    assert echoed({"payment-identifier": entry}) == {"payment-identifier": entry}


def test_a_required_identifier_is_the_last_thing_to_go() -> None:
    many = {f"e{i}": {"info": {"text": "x" * 500}} for i in range(50)}
    kept = echoed({**many, "payment-identifier": IDENTIFIER})
    assert kept["payment-identifier"]["info"]["id"] == f"pay_{ID}"
    assert 0 < len(kept) - 1 < 50


def test_a_required_identifier_without_room_means_that_nothing_can_be_sent() -> None:
    entry = {"info": {"required": True, "text": "x" * 6000}}
    required = x402.PaymentRequired(2, (OFFER,), extensions={"payment-identifier": entry})
    with pytest.raises(x402.HeaderTooLong):
        x402.encode_payment(required, 0, {}, ID)
    assert x402.sendable(required) is None
    voluntary = {"payment-identifier": {"info": {"required": False, "text": "x" * 6000}}}
    assert echoed(voluntary) is None


@given(
    st.dictionaries(
        st.sampled_from(["bazaar", "payment-identifier", "a", "b", "ü"]),
        st.fixed_dictionaries(
            {"info": st.dictionaries(st.text(max_size=3), st.text(max_size=60), max_size=3)},
            optional={"schema": st.text(max_size=60)},
        ),
        max_size=5,
    ),
    st.integers(min_value=0, max_value=600),
)
def test_what_fits_is_within_its_room_and_a_part_of_what_was_offered(
    offered: dict[str, Any], room: int
) -> None:
    kept = extensions.fitting(offered, room)
    if kept is None:
        return
    assert extensions.size(kept) <= room
    for name, entry in kept.items():
        assert entry in (offered[name], {"info": offered[name]["info"]})


# -- decided before keyd is asked ----------------------------------------------------------------------------


def test_offers_whose_payment_cannot_be_sent_are_not_put_forward() -> None:
    large = {**OFFER, "description": "x" * 6000}
    required = x402.PaymentRequired(2, (large, OFFER, "malformed"))
    assert x402.sendable(required) == x402.PaymentRequired(2, (OFFER, "malformed"))
    assert x402.sendable(x402.PaymentRequired(2, (large,))) is None
    long_network = {**TERMS_V1["accepts"][0], "network": "n" * 6000}  # type: ignore[index]
    assert x402.sendable(x402.PaymentRequired(1, (long_network,))) is None


def test_what_passes_beforehand_is_never_too_long_afterwards() -> None:
    authorization = {
        "from": "0x" + "1" * 40,
        "to": "0x" + "2" * 40,
        "value": str(2**256 - 1),
        "validAfter": "1700000000",
        "validBefore": "1700000600",
        "nonce": "0x" + "f" * 64,
    }
    payload = {"signature": "0x" + "f" * 130, "authorization": authorization}
    verdicts = []
    for length in range(4200, 4900, 3):
        required = x402.PaymentRequired(2, ({**OFFER, "description": "x" * length},))
        fits = x402.sendable(required) is not None
        if fits:
            assert len(x402.encode_payment(required, 0, payload, ID).value) <= x402.MAX_PAYMENT_HEADER
        verdicts.append(fits)
    assert verdicts[0]
    assert not verdicts[-1]


@pytest.mark.parametrize(
    "terms",
    [
        {**TERMS, "accepts": [{**OFFER, "description": "x" * 6000}]},
        {**TERMS, "resource": {"url": "https://seller.example/" + "x" * 6000}},
        {**TERMS, "extensions": {"payment-identifier": {"info": {"required": True, "t": "x" * 6000}}}},
    ],
    ids=["offer", "resource", "required identifier"],
)
async def test_a_payment_that_could_not_be_sent_is_never_signed(world: World, terms: dict[str, Any]) -> None:
    refusal = response(402, {"PAYMENT-REQUIRED": encode(terms)}, b"pay first")
    script = selling(lambda _: paid_answer(), lambda _: refusal)
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.body) == (402, b"pay first")
    assert answer.get("X-402-Egress") == "rejected; reason=payment_header_too_long"
    assert world.keyd.requests == []


async def test_of_two_offers_the_one_that_can_be_sent_is_paid(world: World) -> None:
    terms = {**TERMS, "accepts": [{**OFFER, "description": "x" * 6000}, OFFER]}
    script = selling(
        lambda _: paid_answer(), lambda _: response(402, {"PAYMENT-REQUIRED": encode(terms)}, b"pay first")
    )
    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200
    assert world.keyd.requests[0].offers == [OFFER]
    assert decode(upstream.requests[1].get("PAYMENT-SIGNATURE"))["accepted"] == OFFER


async def test_a_repeat_that_keyd_signs_again_carries_the_same_identifier(world: World) -> None:
    async def same(request: object) -> object:
        return reply_to(request, 7)  # type: ignore[arg-type]

    world.keyd.sign = same  # type: ignore[assignment]
    terms = {**TERMS, "extensions": {"payment-identifier": IDENTIFIER}}
    script = selling(
        lambda _: response(500, {}, b"broken"),
        lambda _: response(402, {"PAYMENT-REQUIRED": encode(terms)}, b""),
    )
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.get()
        await app.get()
    first, second = (decode(upstream.requests[i].get("PAYMENT-SIGNATURE")) for i in (1, 3))
    assert first == second
    assert first["extensions"]["payment-identifier"]["info"]["id"] == f"pay_{7:032x}"


async def test_signed_offers_reach_keyd_as_they_came(world: World) -> None:
    signed = [{"format": "jws", "signature": "a.b.c"}, "text"]
    terms = {**TERMS, "extensions": {"offer-receipt": {"info": {"offers": signed}}}}
    refusal = response(402, {"PAYMENT-REQUIRED": encode(terms)}, b"pay first")
    script = selling(lambda _: paid_answer(), lambda _: refusal)
    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200
    assert world.keyd.requests[0].signed_offers == signed


@pytest.mark.parametrize(
    "entry",
    [None, {}, {"info": []}, {"info": {"offers": {}}}, {"info": {"offers": ["x" * 40_000]}}],
    ids=["null", "empty", "list", "object", "too much"],
)
async def test_signed_offers_without_form_change_nothing(world: World, entry: Any) -> None:
    terms = {**TERMS, "extensions": {"offer-receipt": entry}}
    refusal = response(402, {"PAYMENT-REQUIRED": encode(terms)}, b"pay first")
    script = selling(lambda _: paid_answer(), lambda _: refusal)
    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200
    assert world.keyd.requests[0].signed_offers == []


# -- 412 with terms ------------------------------------------------------------------------------------------

PRECONDITION = response(412, {"PAYMENT-REQUIRED": encode(TERMS)}, b"allowance first")


async def test_a_412_with_terms_before_any_payment_passes_with_a_reason(world: World) -> None:
    async with (
        world.serving(selling(lambda _: b"", lambda _: PRECONDITION)) as upstream,
        world.app(upstream) as app,
    ):
        answer = await app.get()
    assert (answer.status, answer.body) == (412, b"allowance first")
    assert answer.get("X-402-Egress") == "rejected; reason=payment_precondition"
    assert world.keyd.requests == []


async def test_a_412_without_terms_is_the_applications_own_affair(world: World) -> None:
    plain = response(412, {}, b"etag")
    async with world.serving(selling(lambda _: b"", lambda _: plain)) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.get("X-402-Egress")) == (412, None)


async def test_a_412_with_terms_after_the_payment_is_reported_and_not_paid_again(world: World) -> None:
    script = selling(
        lambda _: PRECONDITION, lambda _: response(402, {"PAYMENT-REQUIRED": encode(TERMS)}, b"")
    )
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert answer.status == 412
    assert answer.get("X-402-Egress") == f"rejected; reason=already_paid; payment={1:032x}"
    report = await world.keyd.outcomes.get()
    assert (report.http_status, report.failure) == (412, None)
    assert len(world.keyd.requests) == 1
    assert len(upstream.requests) == 2


def test_thousands_of_extensions_are_measured_once_for_all_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody's traffic waits while a 402 is read."""
    size, measured = extensions.size, 0

    def counted(value: Mapping[str, Any]) -> int:
        nonlocal measured
        measured += 1
        return size(value)

    monkeypatch.setattr(extensions, "size", counted)
    many: dict[str, Any] = {f"e{number}": {} for number in range(5000)}
    required = x402.PaymentRequired(2, (OFFER,) * 16, extensions=many)
    assert x402.sendable(required) == required
    assert measured < 4 * len(many)
