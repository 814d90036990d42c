"""Answers of keyd that the transcripts start from."""

from __future__ import annotations

from keyd import api

NOON = 1795262400  # 2026-11-21T12:00:00Z
PAYER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
SELLER = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
PAYMENT_ID = "7f3a0c5d9e1b48268a4d0f6c2b917e53"

POLICY = api.PolicyView(
    enabled=True,
    enforce=True,
    frozen=api.Frozen(frozen=False),
    allowed_domains=["api.quicknode.com", "*.example.com"],
    denied_domains=[],
    signin_domains=[],
    prepay=[],
    only_domains=None,
    callers=["*"],
    session_required=[],
    networks=["eip155:8453"],
    assets=["USDC@eip155:8453"],
    max_payment="0.10",
    approve_above=None,
    approve_first_seen=False,
    payments_per_minute=None,
    daily_budget="1.00",
    spent_today="0.34",
    left_today="0.66",
    day="2026-11-21",
    budgets=[],
    by_domain=[
        api.DomainSpend(domain="api.quicknode.com", usd="0.28", calls=14),
        api.DomainSpend(domain="data.example.com", usd="0.0605", calls=1),
    ],
    by_caller=[api.CallerSpend(caller="uid:1000", usd="0.34", calls=15)],
    pending=[],
    overrides={},
    wallet=PAYER,
    default_wallet_label="default",
)

PROPOSAL = api.Proposal(
    id="a1b2c3d4e5f6",
    kind="payment",
    summary="0.2 USDC to new.example.com is above 0.10 USD",
    code="approval_required",
    by="uid:991",
    created_at=NOON,
    expires_at=NOON + 24 * 3600,
)

WIDER = api.Proposal(
    id="0f1e2d3c4b5a",
    kind="policy",
    summary="raises the daily budget to 2.00 USD",
    by="uid:1001",
    created_at=NOON,
    expires_at=NOON + 24 * 3600,
)

PAYMENT = api.PaymentView(
    payment_id=PAYMENT_ID,
    state="settled",
    delivered=True,
    proven=True,
    domain="api.example.com",
    caller="uid:1000",
    wallet="default",
    amount="0.01",
    asset="USDC",
    network="eip155:8453",
    amount_usd="0.01",
    pay_to=SELLER,
    day="2026-11-21",
    signed_at=NOON,
    valid_before=NOON + 60,
)


def entry(seq: int, what: str, second: int, **data: object) -> api.LedgerEntry:
    ts = f"2026-11-21T12:00:{second:02d}.000000Z"
    return api.LedgerEntry(
        seq=seq, ts=ts, type=f"x402.payment.{what}", actor="uid:991", data=data, hash=f"{seq:064x}"
    )


STORY = api.PaymentStory(
    payment=PAYMENT,
    entries=[
        entry(
            11,
            "attempt",
            0,
            caller="uid:1000",
            domain="api.example.com",
            fingerprint="0" * 64,
            intent=None,
            method="GET",
            offers=[
                {
                    "scheme": "exact",
                    "network": "eip155:8453",
                    "amount": "10000",
                    "asset": USDC,
                    "pay_to": SELLER,
                    "max_timeout_seconds": 60,
                },
                {"malformed": "offer 1: payTo is missing"},
            ],
            path="/weather",
            repeat_of=None,
            resource_url=None,
            x402_version=2,
        ),
        entry(
            12,
            "signed",
            0,
            amount="10000",
            asset_symbol="USDC",
            attempt=11,
            authorization={"to": SELLER, "nonce": "0x" + "ab" * 32},
            payment_id=PAYMENT_ID,
            valid_before=NOON + 60,
            would_refuse={"code": "budget_daily", "detail": "it does not fit"},
        ),
        entry(
            13,
            "unknown",
            2,
            delivered=True,
            http_status=200,
            notes=["payer 'x' is not our wallet"],
            payment_id=PAYMENT_ID,
            transaction=None,
        ),
        entry(
            14,
            "settled",
            59,
            payment_id=PAYMENT_ID,
            proof={"used": True, "block_number": 22431084, "block_hash": "0x" + "cd" * 32, "sources": 2},
            transaction="0x" + "ef" * 32,
        ),
    ],
)
