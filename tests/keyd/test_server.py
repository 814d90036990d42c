"""The socket: roles, forms, errors, over a real Unix socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from pydantic import ValidationError
from structlog.testing import capture_logs

from keyd import api
from keyd.api import Role
from keyd.client import KeydClient, KeydRefused, KeydUnreachable
from keyd.core import eip3009
from keyd.core.assets import DEFAULT_ASSETS
from keyd.http.messages import Request
from keyd.peer import Peer, Roles
from keyd.quotes import QUOTES_PER_MINUTE
from keyd.record import payments
from keyd.record.floods import WINDOW_US, Flood
from keyd.server import MAX_SHOWN_PATH, Server
from tests.keyd.conftest import DEV_KEY, PAYER, SELLER, Keyd, Rig, offer, sign_request

ALL = frozenset(Role)


async def test_the_full_form_is_answered_with_a_signed_payload(client: KeydClient) -> None:
    reply = await client.sign(sign_request())
    assert reply.wallet_address == PAYER
    assert reply.payload.authorization.to == SELLER
    assert (reply.amount, reply.amount_usd, reply.asset) == ("0.001", "0.001", "USDC")
    assert len(bytes.fromhex(reply.signature[2:])) == 65
    assert reply.signature not in f"{reply!r} {reply}"


async def test_the_flat_form_is_answered_in_its_own_terms_and_repeats_are_free(keyd: Keyd) -> None:
    flat = {
        "domain": "api.example.com",
        "amount_usd": "0.001",
        "asset": "USDC",
        "chain": "base-sepolia",
        "pay_to": SELLER,
        "expiry": keyd.rig.clock.now_us // 1_000_000 + 300,
    }
    status, reply = await keyd.raw("POST", "/x402/sign", flat)
    assert status == 200
    assert reply["wallet_address"] == PAYER
    assert reply["signed_at"] == keyd.rig.clock.now_us // 1_000_000
    fields = eip3009.Authorization.from_json(reply["payload"]["authorization"])
    asset = next(a for a in DEFAULT_ASSETS if a.network == "eip155:84532")
    assert Account._recover_hash(eip3009.digest(fields, asset), signature=reply["signature"]) == PAYER
    again = await keyd.raw("POST", "/x402/sign", flat)
    assert again[1]["signature"] == reply["signature"]
    assert len(keyd.rig.entries("x402.payment.signed")) == 1


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"amount_usd": "0.0000001"}, "more than 6 decimal places"),
        ({"amount_usd": 0.001}, "amount_usd"),
        ({"amount_usd": "1e3"}, "amount_usd"),
        ({"asset": "DOGE"}, "not in keyd's table"),
        ({"chain": "nowhere"}, "not in keyd's table"),
        ({"typed_data": {}}, "typed_data"),
    ],
)
async def test_a_flat_form_that_is_unclear_is_refused_in_words(
    keyd: Keyd, members: dict[str, Any], words: str
) -> None:
    flat = {"domain": "api.example.com", "amount_usd": "0.001", "asset": "USDC", "chain": "base-sepolia"}
    flat |= {"pay_to": SELLER, "expiry": 2_000_000_000} | members
    status, refusal = await keyd.raw("POST", "/x402/sign", flat)
    assert (status, refusal["code"]) == (400, "request_malformed")
    assert words in refusal["detail"]


async def test_an_expired_flat_form_is_refused(keyd: Keyd) -> None:
    flat = {"domain": "api.example.com", "amount_usd": "0.001", "asset": "USDC", "chain": "base-sepolia"}
    status, refusal = await keyd.raw("POST", "/x402/sign", flat | {"pay_to": SELLER, "expiry": 1})
    assert (status, refusal["code"]) == (403, "timeout_invalid")


FLAT_TERMS = {"amount": "0.001", "asset": "USDC", "chain": "base-sepolia", "payTo": SELLER}


async def test_a_flat_offer_is_answered_with_its_requirements_and_other_offers_are_not(keyd: Keyd) -> None:
    expiry = keyd.rig.clock.now_us // 1_000_000 + 300
    request = sign_request(FLAT_TERMS | {"expiry": expiry}, dialect="flat").model_dump(mode="json")
    status, reply = await keyd.raw("POST", "/x402/sign", request)
    assert (status, reply["accepted"], reply["requirements"]["amount"]) == (200, 0, "1000")
    assert reply["payload"]["authorization"]["value"] == "1000"
    again = await keyd.raw("POST", "/x402/sign", request)
    assert again[1]["signature"] == reply["signature"]
    status, reply = await keyd.raw("POST", "/x402/sign", sign_request(what=2).model_dump(mode="json"))
    assert (status, reply["requirements"]) == (200, None)


async def test_flat_terms_are_not_read_as_offers_of_the_protocol(keyd: Keyd) -> None:
    request = sign_request(FLAT_TERMS, dialect="x402").model_dump(mode="json")
    status, refusal = await keyd.raw("POST", "/x402/sign", request)
    assert (status, refusal["code"]) == (403, "offer_malformed")


async def test_a_refusal_carries_code_detail_and_the_way_out(client: KeydClient) -> None:
    with pytest.raises(KeydRefused) as caught:
        await client.sign(sign_request(offer("200000")))
    refusal = caught.value.refusal
    assert caught.value.status == 403
    assert refusal.code == "cap_per_payment"
    assert "max_payment_usd" in refusal.hint


async def test_the_log_names_the_payment_or_why_there_is_none(client: KeydClient) -> None:
    with capture_logs() as logs:
        reply = await client.sign(sign_request())
        await client.outcome(api.OutcomeReport(payment_id=reply.payment_id, http_status=200))
        with pytest.raises(KeydRefused):
            await client.sign(sign_request(offer("200000")))
    requests = [entry for entry in logs if entry["event"] == "keyd.request"]
    assert [entry.get("payment") for entry in requests] == [reply.payment_id, reply.payment_id, None]
    assert [entry.get("reason") for entry in requests] == [None, None, "cap_per_payment"]
    assert reply.signature not in str(logs)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("name", list(api.ENDPOINTS))
async def test_each_role_reaches_exactly_its_endpoints(keyd: Keyd, role: Role, name: str) -> None:
    endpoint = api.ENDPOINTS[name]
    keyd.grant(role)
    status, answer = await keyd.raw(
        endpoint.method, endpoint.path.replace("{id}", "0" * 12), b"" if endpoint.method == "POST" else None
    )
    if role in endpoint.roles:
        assert answer.get("code") not in ("role_insufficient", "peer_unknown")
        assert status in (200, 400, 404)
    else:
        assert (status, answer["code"]) == (403, "role_insufficient")
        assert keyd.rig.entries("keyd.peer.refused")


async def test_a_stranger_is_refused_everywhere_and_recorded_once_a_minute(keyd: Keyd) -> None:
    keyd.grant()
    for path in ("/health", "/x402/sign", "/nowhere", "/ledger/head"):
        status, answer = await keyd.raw("GET", path)
        assert (status, answer["code"]) == (403, "peer_unknown")
    assert [e.data["suppressed"] for e in keyd.rig.entries("keyd.peer.refused")] == [0]
    keyd.rig.clock.advance(WINDOW_US / 1_000_000)
    await keyd.raw("GET", "/health")
    assert [e.data["suppressed"] for e in keyd.rig.entries("keyd.peer.refused")] == [0, 3]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"offers": NaN}',
        json.dumps(sign_request().model_dump() | {"extra": 1}).encode(),
        json.dumps(sign_request().model_dump() | {"x402_version": "2"}).encode(),
        json.dumps(sign_request().model_dump() | {"offers": []}).encode(),
        json.dumps(sign_request().model_dump() | {"fingerprint": "x"}).encode(),
        json.dumps(sign_request().model_dump() | {"digest": "00" * 32}).encode(),
    ],
)
async def test_a_malformed_request_is_refused_and_keyd_goes_on(keyd: Keyd, body: bytes) -> None:
    status, refusal = await keyd.raw("POST", "/x402/sign", body)
    assert (status, refusal["code"]) == (400, "request_malformed")
    assert (await keyd.raw("GET", "/health"))[0] == 200


async def test_a_body_over_the_limit_is_refused(keyd: Keyd) -> None:
    status, refusal = await keyd.raw("POST", "/x402/sign", b" " * (api.MAX_BODY + 1))
    assert (status, refusal["code"]) == (413, "request_malformed")


async def test_a_private_key_is_never_quoted_in_an_error(
    keyd: Keyd, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = DEV_KEY[:-1] + "g"
    for message in (
        {"label": "x", "private_key": bad},
        {"label": "X!", "private_key": bad},
        {"label": "x", "key": bad},
    ):
        status, refusal = await keyd.raw("POST", "/wallet/import", message)
        assert status == 400
        assert bad[:20] not in json.dumps(refusal)
    captured = capfd.readouterr()
    assert bad[:20] not in captured.out + captured.err


async def test_wallets_are_made_listed_and_recorded_but_never_overwritten(
    keyd: Keyd, client: KeydClient
) -> None:
    made = await client.wallet_create(api.WalletCreate(label="fresh"))
    imported = await client.wallet_import(api.WalletImport(label="dev", private_key="0x" + "11" * 32))
    assert imported.address == Account.from_key("0x" + "11" * 32).address
    listed = await client.wallet_list()
    assert {w.label for w in listed.wallets} == {"default", "dev", "fresh"}
    assert [w.label for w in listed.wallets if w.default] == ["default"]
    with pytest.raises(KeydRefused, match="wallet_exists"):
        await client.wallet_create(api.WalletCreate(label="fresh"))
    assert [e.data["address"] for e in keyd.rig.entries("wallet.created")] == [made.address]
    assert [e.data["label"] for e in keyd.rig.entries("wallet.imported")] == ["dev"]


async def test_the_policy_view_counts_what_was_signed(client: KeydClient) -> None:
    await client.sign(sign_request(what=1))
    await client.sign(sign_request(offer("20000"), what=2, path="/map"))
    view = await client.policy()
    assert (view.daily_budget, view.spent_today, view.left_today) == ("1.00", "0.021", "0.979")
    assert [(d.domain, d.usd, d.calls) for d in view.by_domain] == [("api.example.com", "0.021", 2)]
    assert view.allowed_domains == ["api.example.com"]
    assert view.wallet == PAYER


async def test_the_ledger_is_read_and_verified_over_the_socket(client: KeydClient) -> None:
    await client.sign(sign_request())
    entries = (await client.ledger_entries(limit=1)).entries
    assert [e.type for e in entries] == ["x402.payment.signed"]
    assert [e.seq for e in (await client.ledger_entries(limit=10, after=0)).entries] == [1, 2, 3]
    verdict = await client.ledger_verify()
    head = await client.ledger_head()
    assert (verdict.ok, verdict.entries, verdict.head) == (True, 3, head.hash)


async def test_a_dead_socket_is_unreachable_and_nothing_else(tmp_path: Path) -> None:
    async with KeydClient(str(tmp_path / "nobody.sock")) as client:
        with pytest.raises(KeydUnreachable):
            await client.health()


async def test_health_says_why_nothing_can_be_paid(keyd: Keyd, client: KeydClient) -> None:
    assert (await client.health()).status == "ok"
    keyd.rig.policy(enabled=False, allowed_domains=())
    health = await client.health()
    assert health.status == "degraded"
    assert len(health.problems) == 2


async def test_a_ledger_that_cannot_be_written_refuses_with_its_own_code(keyd: Keyd) -> None:
    keyd.rig.ledger.close()
    status, refusal = await keyd.raw("POST", "/x402/sign", sign_request().model_dump_json().encode())
    assert (status, refusal["code"]) == (503, "ledger_unavailable")


def test_every_endpoint_has_a_handler_and_a_role(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    server = Server(rig.service, rig.admin, rig.rotation, rig.backups, Roles({}, {}), rig.clock)
    assert server.handlers().keys() == api.ENDPOINTS.keys()
    assert all(e.roles for e in api.ENDPOINTS.values())


async def test_a_session_is_opened_listed_and_closed(keyd: Keyd, client: KeydClient) -> None:
    keyd.grant(Role.AGENT, Role.EGRESS)
    opened = await client.session_open(api.SessionOpen(label="research", budget_usd="0.001"))
    assert opened.session.caller == f"uid:{os.getuid()}"
    assert opened.session.expires_at == keyd.rig.clock.now_us // 1_000_000 + 24 * 3600
    digest = hashlib.sha256(opened.token.encode()).hexdigest()
    assert digest.startswith(opened.session.id)
    await client.sign(sign_request(session=digest, caller={"uid": os.getuid()}))
    [listed] = (await client.sessions()).sessions
    assert (listed.id, listed.spent) == (opened.session.id, "0.001")
    assert (await client.session_close(listed.id)).spent == "0.001"
    assert (await client.sessions()).sessions == []
    with pytest.raises(KeydRefused, match="session_unknown"):
        await client.session_close(listed.id)


async def test_quotes_are_bounded_by_the_minute_and_cost_nothing(keyd: Keyd, client: KeydClient) -> None:
    keyd.grant(Role.AGENT)
    request = api.QuoteRequest(
        origin=sign_request().origin, path="/weather", x402_version=2, offers=[offer()]
    )
    for _ in range(QUOTES_PER_MINUTE):
        assert (await client.quote(request)).verdict == "pay"
    with pytest.raises(KeydRefused, match="rate_limit"):
        await client.quote(request)
    assert keyd.rig.entries() == []


async def test_an_administrator_who_speaks_for_an_agent_widens_nothing(client: KeydClient) -> None:
    wider = api.PolicyPatch(max_payment_usd="0.50")
    filed = await client.policy_change(wider, as_agent=True)
    assert (filed.applied, filed.wider) == (False, ["raises the payment cap to 0.50 USD"])
    assert (await client.policy_change(api.PolicyPatch(max_payment_usd="0.05"), as_agent=True)).applied
    assert (await client.policy()).max_payment == "0.05"
    assert (await client.policy_change(wider)).applied


async def test_nobody_speaks_for_an_administrator(keyd: Keyd) -> None:
    keyd.grant(Role.AGENT)
    status, answer = await keyd.raw("PATCH", "/x402/policy?as=admin", {"max_payment_usd": "0.50"})
    assert (status, answer["code"]) == (400, "request_malformed")


async def test_refusals_are_listed_the_newest_first(keyd: Keyd, client: KeydClient) -> None:
    keyd.rig.policy(approve_above=500)
    for what, amount in enumerate(["100001", "1000"]):
        with pytest.raises(KeydRefused):
            await client.sign(sign_request(offer(amount), what=what))
    held, dear = (await client.refusals()).refusals
    assert (held.code, dear.code) == ("approval_required", "cap_per_payment")
    assert (held.domain, held.caller, dear.approval) == ("api.example.com", "uid:1000", None)
    assert held.approval == (await client.policy()).pending[0].id
    assert [r.code for r in (await client.refusals(limit=1)).refusals] == ["approval_required"]


@pytest.mark.parametrize(
    ("view", "path"),
    [
        ("views.payments", "/x402/payments?domain=nowhere"),
        ("views.spend", "/x402/spend?by=asset&since=2000-01-01"),
        ("views.refusals", "/x402/refusals"),
        ("views.story", "/x402/payments/" + "0" * 32),
        ("sessions.list", "/x402/sessions"),
    ],
)
async def test_a_payment_does_not_wait_for_somebody_who_looks_at_a_long_record(
    keyd: Keyd, client: KeydClient, monkeypatch: pytest.MonkeyPatch, view: str, path: str
) -> None:
    """Or one agent that asks again and again would keep everybody from paying."""
    paid, looking, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()
    part, name = view.split(".")
    look = getattr(getattr(keyd.server, part), name)

    def slowly(*arguments: Any, **named: Any) -> Any:
        loop.call_soon_threadsafe(looking.set)
        assert paid.wait(60)
        return look(*arguments, **named)

    monkeypatch.setattr(getattr(keyd.server, part), name, slowly)
    asked = asyncio.create_task(keyd.raw("GET", path))
    await looking.wait()
    await client.sign(sign_request())
    paid.set()
    assert (await asked)[0] in (200, 404)


def test_the_newest_payments_are_found_without_sorting_all_of_them(rig: Rig) -> None:
    def plan(db: sqlite3.Connection) -> str:
        steps: list[str] = []
        db.set_trace_callback(steps.append)
        payments.newest(db, state=None, domain=None, limit=1)
        db.set_trace_callback(None)
        return " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {steps[-1]}"))

    assert "TEMP B-TREE" not in rig.ledger.read(plan)


async def test_a_peer_that_asks_all_the_time_does_not_push_signed_heads_out_of_the_log(
    keyd: Keyd,
) -> None:
    server = keyd.server
    server._logged = Flood(3)
    request = Request("GET", "/" + "x" * 4000, Peer(1, 1, 1))
    with capture_logs() as logs:
        for _ in range(10):
            await server.answer(request)
        keyd.rig.clock.advance(61)
        await server.answer(request)
    noted = [record for record in logs if record["event"] == "keyd.request"]
    assert [record.get("suppressed") for record in noted] == [None, None, None, 7]
    assert all(len(record["path"]) == MAX_SHOWN_PATH for record in noted)


@pytest.mark.parametrize(
    ("message", "members"),
    [
        (api.SignReply, {"signature": "0xdeadbeef"}),
        (api.ExactPayload, {"signature": "0xdeadbeef"}),
        (api.SignInProof, {"signature": "0xdeadbeef"}),
        (api.WalletImport, {"private_key": "deadbeef" * 20}),
        (api.BackupMake, {"passphrase": "deadbeef"}),
        (api.KekRotate, {"new_kek": "deadbeef"}),
    ],
)
def test_what_is_wrong_with_a_message_is_said_without_its_secrets(
    message: type[api.Message], members: dict[str, str]
) -> None:
    """An answer of another version of keyd ends in the log of egress, as the cause of an error."""
    with pytest.raises(ValidationError) as caught:
        message.model_validate(members)
    assert "deadbeef" not in str(caught.value)
