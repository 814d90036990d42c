"""The seller lies in its terms. Nothing is signed but what our own table and policy say is sound."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.abuse.support.seller import OTHER_PAY_TO, PAY_TO, PRICE, USDC, Seller, offer, required
from tests.abuse.support.stage import WALLET, Stage
from tests.egress.support.wire import decode, encode, response

CAP = 100_000
"""Micro-USD; of the stage's policy."""
MAINNET_USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


async def check_offer_refused(stage: Stage, seller: Seller, code: str, **lies: Any) -> None:
    """A host whose only offer is this one gets nothing; once it is honest it is paid."""
    seller.offers = [offer(**lies)]
    async with stage.serving(seller) as upstream:
        stage.check_refused(await stage.get(upstream), upstream, code)
        assert seller.payments == []
        seller.offers = [offer()]
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(1)
async def test_a_price_above_the_cap_is_refused_before_signing(stage: Stage, seller: Seller) -> None:
    await check_offer_refused(stage, seller, "cap_per_payment", amount=str(CAP + 1))


async def test_a_price_of_exactly_the_cap_is_paid(stage: Stage, seller: Seller) -> None:
    seller.offers = [offer(amount=str(CAP))]
    async with stage.serving(seller) as upstream:
        assert (await stage.check_sells(seller, upstream))["amount"] == str(CAP)


@pytest.mark.attack(2)
async def test_a_price_that_jumps_is_held_until_an_administrator_approves(
    stage: Stage, seller: Seller
) -> None:
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)
        seller.offers = [offer(amount=str(2 * PRICE))]
        await stage.check_sells(seller, upstream)  # within the band
        seller.offers = [offer(amount=str(2 * PRICE + 1))]
        stage.check_refused(await stage.get(upstream), upstream, "pin_price", payments=2)
        await stage.approve_held(upstream)
        assert (await stage.check_sells(seller, upstream))["amount"] == str(2 * PRICE + 1)


@pytest.mark.attack(3)
async def test_only_the_offer_that_was_decided_on_is_signed(stage: Stage, seller: Seller) -> None:
    """The seller changes its mind when the payment is there, and for the repeat of an open payment."""
    dearer = offer(amount=str(PRICE + 1))
    async with stage.serving(seller) as upstream:
        seller.answer = lambda _: response(502, {}, b"no, I want more")
        assert (await stage.get(upstream)).status == 502
        [signed] = stage.signed(upstream)
        [payment] = [decode(header) for header in seller.payments]
        assert payment["accepted"] == offer()
        assert payment["payload"]["authorization"] == signed["authorization"]
        assert (signed["amount"], signed["authorization"]["to"]) == (str(PRICE), PAY_TO)
        await stage.outcome(signed["payment_id"])

        seller.offers = [dearer]
        repeat = await stage.get(upstream)
        stage.check_refused(repeat, upstream, "intent_open_terms_changed", payments=1)

        seller.forget()
        seller.offers = [offer()]
        assert (await stage.get(upstream)).status == 200
        assert len(stage.signed(upstream)) == 1  # the open payment again, and no other
        await stage.check_sells(seller, upstream, "/b")


@pytest.mark.attack(4)
@pytest.mark.parametrize("dear", [str(50 * PRICE), str(CAP + 1), "9" * 70])
async def test_the_cheapest_offer_is_taken_wherever_it_stands(
    stage: Stage, seller: Seller, dear: str
) -> None:
    seller.offers = [offer(amount=dear), offer(amount=str(PRICE + 1)), offer(), offer(amount=dear)]
    async with stage.serving(seller) as upstream:
        assert (await stage.check_sells(seller, upstream))["amount"] == str(PRICE)
        assert decode(seller.payments[0])["accepted"] == offer()


@pytest.mark.attack(5)
async def test_the_header_counts_and_the_body_does_not(stage: Stage, seller: Seller) -> None:
    body = {"x402Version": 2, "accepts": [offer(amount=str(50 * PRICE), payTo=OTHER_PAY_TO)]}
    headers = {"PAYMENT-REQUIRED": encode({"x402Version": 2, "accepts": [offer()]})}
    seller.refuse = lambda _: response(402, headers, str(body).replace("'", '"').encode())
    async with stage.serving(seller) as upstream:
        signed = await stage.check_sells(seller, upstream)
    assert (signed["amount"], signed["authorization"]["to"]) == (str(PRICE), PAY_TO)


@pytest.mark.attack(5)
async def test_an_offer_that_contradicts_itself_is_refused(stage: Stage, seller: Seller) -> None:
    await check_offer_refused(stage, seller, "offer_malformed", maxAmountRequired="1")


@pytest.mark.attack(5)
async def test_two_headers_that_disagree_are_no_terms(stage: Stage, seller: Seller) -> None:
    cheap, dear = (encode({"x402Version": 2, "accepts": [offer(amount=amount)]}) for amount in ("1", "9000"))
    async with stage.serving(seller) as upstream:
        seller.refuse = lambda _: response(402, {"PAYMENT-REQUIRED": cheap, "payment-required": dear})
        stage.check_not_asked(await stage.get(upstream), upstream, "terms_missing")
        seller.forget()
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(6)
@pytest.mark.parametrize("stated", [{}, {"decimals": 18}])
async def test_decimals_come_from_our_table(stage: Stage, seller: Seller, stated: dict[str, int]) -> None:
    """0.001 in 18 decimals is a thousand million dollars in the six that USDC has."""
    extra = {"name": "USDC", "version": "2", **stated}
    lies = {"amount": str(10**15), "extra": extra, **stated}
    await check_offer_refused(stage, seller, "cap_per_payment", **lies)


@pytest.mark.attack(7)
@pytest.mark.parametrize(
    "amount",
    ["0", "-1", "+1", "1e6", "0x10", " 1", "1 ", "01", "1.5", "1_000", "", "١٠٠٠", "１０００", str(2**256), "9" * 1000],
)  # fmt: skip
async def test_an_amount_that_is_no_plain_decimal_integer_is_refused(
    stage: Stage, seller: Seller, amount: str
) -> None:
    await check_offer_refused(stage, seller, "amount_invalid", amount=amount)


@pytest.mark.attack(7)
@pytest.mark.parametrize("amount", [1000, -1, 1000.5, True, ["1000"], {"value": "1000"}])
async def test_an_amount_that_is_no_string_is_refused(stage: Stage, seller: Seller, amount: Any) -> None:
    await check_offer_refused(stage, seller, "offer_malformed", amount=amount)


@pytest.mark.attack(7)
async def test_the_largest_possible_amount_is_understood_and_too_dear(stage: Stage, seller: Seller) -> None:
    await check_offer_refused(stage, seller, "cap_per_payment", amount=str(2**256 - 1))


@pytest.mark.attack(8)
@pytest.mark.parametrize(
    "token",
    [
        MAINNET_USDC,  # the right token of another network
        USDC[:-1] + "f",  # last digit
        USDC[:10] + "0" * 22 + USDC[-10:],  # beginning and end as people compare them
        USDC.replace("0x", "0x\u200b"),
        "USDC",
        "0x" + "00" * 20,
    ],
)
async def test_a_token_that_is_not_in_our_table_is_refused(stage: Stage, seller: Seller, token: str) -> None:
    assert token.lower() != USDC.lower()
    await check_offer_refused(stage, seller, "asset_unknown", asset=token)


@pytest.mark.attack(9)
async def test_real_money_is_refused_where_a_testnet_is_allowed(stage: Stage, seller: Seller) -> None:
    extra = {"name": "USD Coin", "version": "2"}
    lies = {"network": "eip155:8453", "asset": MAINNET_USDC, "extra": extra}
    await check_offer_refused(stage, seller, "network_not_allowed", **lies)


@pytest.mark.attack(9)
@pytest.mark.parametrize(
    "network",
    ["base-sepolia", "base", "84532", "eip155:084532", "EIP155:84532", "eip155:84532 ", "eip155:٨٤٥٣٢",
     "eip155:999999999", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "eip155:"],
)  # fmt: skip
async def test_a_network_is_known_by_its_canonical_id_alone(
    stage: Stage, seller: Seller, network: str
) -> None:
    await check_offer_refused(stage, seller, "network_unknown", network=network)


@pytest.mark.attack(10)
@pytest.mark.parametrize("lie", [{"name": "USD Coin"}, {"version": "1"}, {"name": "USDС"}, {"version": 2}])
async def test_another_signing_domain_than_the_tables_is_refused(
    stage: Stage, seller: Seller, lie: dict[str, Any]
) -> None:
    extra = {"name": "USDC", "version": "2", **lie}
    await check_offer_refused(stage, seller, "asset_mismatch", extra=extra)


@pytest.mark.attack(10)
async def test_what_is_signed_names_our_contract_whatever_extra_says(stage: Stage, seller: Seller) -> None:
    """The seller verifies with the domain of the table, so a signature for another contract would not do."""
    seller.offers = [offer(extra={"verifyingContract": OTHER_PAY_TO, "chainId": 8453})]
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(11)
@pytest.mark.parametrize(
    "recipient",
    ["0x" + "00" * 20, USDC, USDC.lower(), WALLET, WALLET.lower(), PAY_TO.swapcase().replace("X", "x"),
     PAY_TO[:-1], PAY_TO + "0", "", "seller.eth", " " + PAY_TO],
)  # fmt: skip
async def test_a_recipient_that_is_no_sound_address_is_refused(
    stage: Stage, seller: Seller, recipient: str
) -> None:
    await check_offer_refused(stage, seller, "pay_to_invalid", payTo=recipient)


@pytest.mark.attack(12)
async def test_a_new_recipient_of_a_known_host_is_held(stage: Stage, seller: Seller) -> None:
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)
        seller.offers = [offer(payTo=OTHER_PAY_TO)]
        stage.check_refused(await stage.get(upstream), upstream, "pin_pay_to", payments=1)
        seller.offers = [offer()]
        await stage.check_sells(seller, upstream)
        seller.offers = [offer(payTo=OTHER_PAY_TO)]
        stage.check_refused(await stage.get(upstream), upstream, "pin_pay_to", payments=2)
        await stage.approve_held(upstream)
        signed = await stage.check_sells(seller, upstream)
        assert signed["authorization"]["to"] == OTHER_PAY_TO


@pytest.mark.attack(12)
async def test_a_cheaper_offer_to_a_stranger_does_not_win_over_the_known_recipient(
    stage: Stage, seller: Seller
) -> None:
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)
        seller.offers = [offer(amount="1", payTo=OTHER_PAY_TO), offer()]
        signed = await stage.check_sells(seller, upstream)
        assert signed["authorization"]["to"] == PAY_TO


@pytest.mark.attack(13)
async def test_a_year_to_settle_is_clamped(stage: Stage, seller: Seller) -> None:
    seller.offers = [offer(maxTimeoutSeconds=365 * 86400)]
    async with stage.serving(seller) as upstream:
        signed = await stage.check_sells(seller, upstream)
    assert int(signed["authorization"]["validBefore"]) <= time.time() + 600


@pytest.mark.attack(13)
@pytest.mark.parametrize("seconds", [0, -1, -(10**20), "60", 1.5, True, [60]])
async def test_a_window_that_is_no_positive_integer_is_refused(
    stage: Stage, seller: Seller, seconds: Any
) -> None:
    await check_offer_refused(stage, seller, "timeout_invalid", maxTimeoutSeconds=seconds)


@pytest.mark.attack(14)
@pytest.mark.parametrize("scheme", ["upto", "Exact", "exact ", "batch-settlement"])
async def test_a_scheme_that_leaves_the_amount_to_the_seller_is_off(
    stage: Stage, seller: Seller, scheme: str
) -> None:
    await check_offer_refused(stage, seller, "scheme_unsupported", scheme=scheme, amount=str(10**12))


@pytest.mark.attack(14)
async def test_an_exact_offer_beside_upto_is_paid(stage: Stage, seller: Seller) -> None:
    seller.offers = [offer(scheme="upto", amount="1"), offer()]
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)
        assert decode(seller.payments[0])["accepted"] == offer()


@pytest.mark.attack(15)
@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ({"assetTransferMethod": "permit2"}, "transfer_method_unsupported"),
        ({"assetTransferMethod": "erc7710"}, "transfer_method_unsupported"),
        ({"paymentFlow": "escrow"}, "payment_flow_unsupported"),
        ({"paymentFlow": "upfront"}, "payment_flow_unsupported"),
    ],
)
async def test_allowances_and_prepayment_are_refused(
    stage: Stage, seller: Seller, lie: dict[str, str], code: str
) -> None:
    await check_offer_refused(stage, seller, code, extra={"name": "USDC", "version": "2", **lie})


@pytest.mark.attack(15)
@pytest.mark.parametrize("extension", ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"])
async def test_a_gas_sponsoring_extension_gets_no_signature_of_its_own(
    stage: Stage, seller: Seller, extension: str
) -> None:
    """The extension is echoed as every extension is; beside it stands one transfer, and nothing else is signed."""
    asked = {extension: {"info": {"description": "sign this approval", "version": "1"}, "schema": {}}}
    seller.members = {"extensions": asked}
    async with stage.serving(seller) as upstream:
        permit2 = {"name": "USDC", "version": "2", "assetTransferMethod": "permit2"}
        seller.refuse = lambda _: required(offer(extra=permit2), extensions=asked)
        stage.check_refused(await stage.get(upstream), upstream, "transfer_method_unsupported")
        seller.refuse = seller.honest_refusal
        await stage.check_sells(seller, upstream)
        payment = decode(seller.payments[0])
    assert payment["extensions"] == asked
    assert payment["payload"].keys() == {"signature", "authorization"}
