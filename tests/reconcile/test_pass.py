"""A whole pass: the real keyd, and servers that tell the truth."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from keyd.api import ChainEvidence, Role
from keyd.client import KeydRefused, KeydUnreachable
from keyd.peer import Peer
from reconcile.reconciler import Summary
from tests.reconcile.conftest import Stage
from tests.reconcile.support import NETWORK, FakeNode, Refuse, block_hash, serving

VOID = 60 + 120 + 2
"""Seconds after signing at which a block proves that a payment of a minute can never be settled."""


async def test_a_used_authorization_is_settled_with_its_transaction_and_block(stage: Stage) -> None:
    payment = await stage.pay()
    stage.advance(30)
    transaction = stage.chain.settle(payment, payment.signed_at + 10)
    assert await stage.reconcile() == Summary(settled=1)
    [proof] = stage.proofs()
    head = stage.chain.height
    assert proof["type"] == "x402.payment.settled"
    assert proof["transaction"] == transaction
    assert proof["proof"] == {
        "used": True,
        "block_number": head,
        "block_hash": block_hash(head),
        "block_timestamp": stage.chain.time_of(head),
        "sources": 1,
    }
    assert stage.spent() == "0.001"


async def test_an_unused_authorization_is_released_once_it_is_void(stage: Stage) -> None:
    await stage.pay()
    stage.advance(VOID)
    assert await stage.reconcile() == Summary(released=1)
    assert [proof["type"] for proof in stage.proofs()] == ["x402.payment.released"]
    assert stage.spent() == "0.00"
    assert await stage.reconcile() == Summary()


@pytest.mark.parametrize("seconds", [0, 30, 60, 120, VOID - 2])
async def test_an_unused_authorization_is_open_until_it_is_void(stage: Stage, seconds: int) -> None:
    await stage.pay()
    stage.advance(seconds)
    assert await stage.reconcile() == Summary(open=1)
    assert stage.proofs() == []
    assert stage.spent() == "0.001"


async def test_a_chain_that_stands_still_releases_nothing(stage: Stage) -> None:
    await stage.pay()
    stage.rig.clock.advance(10 * VOID)
    assert await stage.reconcile() == Summary(open=1)
    assert stage.spent() == "0.001"


async def test_a_payment_that_was_settled_in_the_last_valid_block_is_not_released(stage: Stage) -> None:
    payment = await stage.pay()
    stage.chain.settle(payment, payment.valid_before - 2)
    stage.advance(10 * VOID)
    assert await stage.reconcile() == Summary(settled=1)
    assert stage.spent() == "0.001"


RECEIPT = {"success": True, "transaction": "0x" + "ab" * 32, "network": NETWORK}


async def test_a_settlement_that_only_the_seller_reports_is_open_until_the_chain_confirms_it(
    stage: Stage,
) -> None:
    payment = await stage.pay(report=RECEIPT)
    assert payment.state == "settled"
    stage.advance(30)
    assert await stage.reconcile() == Summary(open=1)
    stage.chain.settle(payment, payment.signed_at + 28)
    assert await stage.reconcile() == Summary(settled=1)
    assert await stage.open() == []


async def test_a_settlement_that_the_chain_denies_is_released_once_it_is_void(stage: Stage) -> None:
    await stage.pay(report=RECEIPT)
    stage.advance(VOID)
    assert await stage.reconcile() == Summary(released=1)
    assert stage.spent() == "0.00"


async def test_the_state_is_read_at_the_block_that_the_tag_names(stage: Stage) -> None:
    payment = await stage.pay()
    stage.advance(VOID)
    stage.chain.settle(payment, payment.signed_at + 40)
    stage.nodes[0].tags["finalized"] = 80  # 160 seconds back: 22 after the signature
    assert await stage.reconcile(block="finalized") == Summary(open=1)
    stage.nodes[0].tags["finalized"] = 60
    assert await stage.reconcile(block="finalized") == Summary(settled=1)


async def test_a_payment_younger_than_the_block_is_not_asked_about(stage: Stage) -> None:
    await stage.pay()
    stage.advance(VOID)
    stage.nodes[0].tags["finalized"] = 500
    assert await stage.reconcile(block="finalized") == Summary(open=1)
    assert stage.nodes[0].calls == ["eth_getBlockByNumber", "eth_chainId"]


async def test_many_payments_cost_few_requests(stage: Stage) -> None:
    payments = [await stage.pay(what=n) for n in range(20)]
    stage.advance(VOID)
    stage.chain.settle(payments[3], payments[3].signed_at + 10)
    assert await stage.reconcile() == Summary(settled=1, released=19)
    calls = stage.nodes[0].calls
    assert calls.count("eth_call") == 20
    assert calls.count("eth_getLogs") == 1
    # one to begin with, three batches of states, and the search for one event
    assert stage.nodes[0].requests <= 1 + 3 + 10


async def test_nothing_open_means_nobody_is_asked(stage: Stage) -> None:
    assert await stage.reconcile() == Summary()
    assert stage.nodes[0].requests == 0


async def test_every_page_of_open_payments_is_asked_about(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in range(5):
        await stage.pay(what=what)
    monkeypatch.setattr("keyd.views.MAX_OPEN", 2)
    stage.advance(VOID)
    assert await stage.reconcile() == Summary(released=5)
    assert stage.nodes[0].calls.count("eth_chainId") == 1


async def test_a_network_without_servers_is_named_and_is_no_fault(stage: Stage) -> None:
    await stage.pay()
    with capture_logs() as logs:
        summary = await stage.reconcile(network="eip155:8453")
    assert (summary, summary.failed) == (Summary(unconfigured=1), 0)
    assert str(summary).endswith("0 unreachable, 1 with no RPC configured")
    assert [(e["event"], e["log_level"]) for e in logs] == [("reconcile.network.unconfigured", "warning")]
    assert stage.nodes[0].requests == 0


async def test_a_server_without_batches_is_asked_one_by_one(stage: Stage) -> None:
    stage.nodes[0].batches = False
    payments = [await stage.pay(what=n) for n in range(3)]
    stage.advance(VOID)
    transaction = stage.chain.settle(payments[1], payments[1].signed_at)
    assert await stage.reconcile() == Summary(settled=1, released=2)
    assert transaction in [proof["transaction"] for proof in stage.proofs()]


@pytest.mark.parametrize("max_logs", [1, 7, 100, 10_000])
async def test_a_server_that_wants_smaller_ranges_of_logs_gets_them(stage: Stage, max_logs: int) -> None:
    stage.nodes[0].max_logs = max_logs
    payment = await stage.pay()
    transaction = stage.chain.settle(payment, payment.signed_at)
    stage.advance(10 * VOID)
    assert await stage.reconcile() == Summary(settled=1)
    found = stage.proofs()[0]["transaction"]
    # Sixty-four calls of a single block do not reach across the two minutes before the signature.
    assert found == (None if max_logs == 1 else transaction)


async def test_a_settlement_without_its_event_is_still_one(stage: Stage) -> None:
    def no_logs(method: str, params: list[object], result: object) -> object:
        if method == "eth_getLogs":
            raise Refuse(-32601, "method not available")
        return result

    stage.nodes[0].liar = no_logs
    payments = [await stage.pay(what=n) for n in range(3)]
    for payment in payments:
        stage.chain.settle(payment, payment.signed_at)
    stage.advance(20)
    assert await stage.reconcile() == Summary(settled=3)
    assert [proof["transaction"] for proof in stage.proofs()] == [None, None, None]
    # It is not tried again for each payment.
    assert 1 <= stage.nodes[0].calls.count("eth_getLogs") < 20


async def test_the_event_is_found_years_back_with_few_headers(stage: Stage) -> None:
    payment = await stage.pay()
    transaction = stage.chain.settle(payment, payment.signed_at + 20)
    stage.advance(100_000_000)
    assert await stage.reconcile() == Summary(settled=1)
    assert stage.proofs()[0]["transaction"] == transaction
    assert stage.nodes[0].calls.count("eth_getBlockByNumber") <= 12


async def test_a_second_pass_changes_nothing(stage: Stage) -> None:
    payment = await stage.pay()
    await stage.pay(what=1)
    stage.chain.settle(payment, payment.signed_at)
    stage.advance(VOID)
    assert await stage.reconcile() == Summary(settled=1, released=1)
    entries = len(stage.rig.entries())
    assert await stage.reconcile() == Summary()
    assert len(stage.rig.entries()) == entries


async def test_without_keyd_nobody_is_asked(stage: Stage) -> None:
    stage.socket.unlink()
    with pytest.raises(KeydUnreachable):
        await stage.reconcile()
    assert stage.nodes[0].requests == 0


async def test_evidence_that_keyd_refuses_is_a_fault_and_the_pass_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    payments = [await stage.pay(what=n) for n in range(2)]
    stage.advance(VOID)
    real = stage.rig.service.record_evidence

    async def forgetful(peer: Peer, found: ChainEvidence) -> object:
        if found.payment_id == payments[0].payment_id:
            found = found.model_copy(update={"payment_id": "0" * 32})
        return await real(peer, found)

    monkeypatch.setattr(stage.rig.service, "record_evidence", forgetful)
    summary = await stage.reconcile()
    assert (summary, summary.failed) == (Summary(released=1, refused=1), 1)


async def test_without_the_role_of_a_reconciler_nobody_is_asked(stage: Stage) -> None:
    stage.grant(Role.EGRESS)
    with pytest.raises(KeydRefused, match="role_insufficient"):
        await stage.reconcile()
    assert stage.nodes[0].requests == 0


async def test_several_networks_are_asked_each_at_its_own_servers(stage: Stage) -> None:
    await stage.pay()
    async with serving(FakeNode(stage.chain, chain_id=8453)) as other:
        base = {"network": "eip155:8453", "rpc": [other.url]}
        stage.advance(VOID)
        assert await stage.reconcile(others=[base]) == Summary(released=1)
        assert other.requests == 0
