"""What keyd shows: policy, spending, payments. Reads only; every figure comes from the ledger's projection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from keyd import api
from keyd.core.assets import Asset, AssetTable
from keyd.core.money import format_token_amount, format_usd
from keyd.core.policy import Policy
from keyd.record import facts, payments, proposals
from keyd.record.facts import Kind
from keyd.record.payments import Payment
from keyd.record.policies import Policies
from ledger.entry import Entry
from ledger.log import Ledger

MAX_ROWS: Final = 1000
"""Rows of one answer; a person reads fewer, a program asks for a day or a domain."""

MAX_OPEN: Final = 500
"""Payments in one answer to a reconciler; it asks again for the rest."""


class Views:
    """Answers to questions, each at one moment of the ledger. Times in Unix seconds."""

    def __init__(self, ledger: Ledger, policies: Policies) -> None:
        self._ledger = ledger
        self._policies = policies

    def policy(self, now_us: int, *, wallet: str | None, default_wallet: str) -> api.PolicyView:
        """What is in force and what was spent today; `wallet` is the default wallet's address."""
        return self._ledger.read(lambda db: self._policy(db, now_us, wallet, default_wallet))

    def _policy(
        self, db: sqlite3.Connection, now_us: int, wallet: str | None, default_wallet: str
    ) -> api.PolicyView:
        policy, day = self._policies.in_force(db), payments.budget_day(now_us)
        spent = payments.spent_on(db, day)
        return api.PolicyView(
            enabled=policy.enabled,
            enforce=self._policies.enforce,
            frozen=_frozen(db),
            allowed_domains=[str(pattern) for pattern in policy.allowed_domains],
            denied_domains=[str(pattern) for pattern in policy.denied_domains],
            only_domains=None if policy.only_domains is None else [str(p) for p in policy.only_domains],
            signin_domains=list(policy.signin_domains),
            callers=sorted(policy.callers),
            session_required=sorted(policy.session_required),
            networks=sorted(policy.networks),
            assets=sorted(str(asset) for asset in payable_assets(policy)),
            max_payment=format_usd(policy.max_payment),
            approve_above=None if policy.approve_above is None else format_usd(policy.approve_above),
            approve_first_seen=policy.approve_first_seen,
            payments_per_minute=policy.payments_per_minute,
            daily_budget=format_usd(policy.daily_budget),
            spent_today=format_usd(spent),
            left_today=format_usd(max(0, policy.daily_budget - spent)),
            day=day,
            budgets=_budgets(db, policy, day),
            prepay=[
                api.PrepayView(domain=rule.domain, methods=sorted(rule.methods), after=rule.after)
                for rule in policy.prepay
            ],
            by_domain=[
                api.DomainSpend(domain=key, usd=format_usd(usd), calls=calls)
                for key, usd, calls in payments.spend_by(db, api.SpendBy.DOMAIN, day)
            ],
            by_caller=[
                api.CallerSpend(caller=key, usd=format_usd(usd), calls=calls)
                for key, usd, calls in payments.spend_by(db, api.SpendBy.CALLER, day)
            ],
            pending=proposals.waiting(db, now_us // 1_000_000),
            overrides=self._policies.overrides(db).as_document(),
            wallet=wallet,
            default_wallet_label=default_wallet,
        )

    def today(self, now_us: int) -> str:
        """The UTC day that the budget counts."""
        return self._ledger.read(lambda db: payments.budget_day(now_us))

    def spend(self, by: api.SpendBy, since: str) -> api.Spend:
        """What counts as spent from day `since` (YYYY-MM-DD) on."""
        rows = self._ledger.read(lambda db: payments.spend_by(db, by, since))
        name: Callable[[str], str] = self._asset_name if by is api.SpendBy.ASSET else str
        return api.Spend(
            by=by,
            since=since,
            rows=[api.SpendRow(key=name(k), usd=format_usd(usd), calls=calls) for k, usd, calls in rows],
            total=format_usd(sum(usd for _, usd, _ in rows)),
        )

    def payments(self, *, state: str | None, domain: str | None, limit: int) -> api.PaymentList:
        """The newest payments first."""
        rows = self._ledger.read(
            lambda db: payments.newest(db, state=state, domain=domain, limit=min(max(limit, 0), MAX_ROWS))
        )
        return api.PaymentList(payments=[self._payment(payment) for payment in rows])

    def refusals(self, limit: int) -> api.RefusalList:
        """What was not paid, the newest first."""
        entries = self._ledger.read(lambda db: payments.refused(db, min(max(limit, 0), MAX_ROWS)))
        return api.RefusalList(refusals=[_refused(entry) for entry in entries])

    def story(self, payment_id: str) -> api.PaymentStory | None:
        """Every entry about one payment; None if there is no such payment."""

        def read(db: sqlite3.Connection) -> tuple[Payment, list[Entry]] | None:
            payment = payments.by_id(db, payment_id)
            return None if payment is None else (payment, payments.entries_about(db, payment))

        found = self._ledger.read(read)
        if found is None:
            return None
        return api.PaymentStory(
            payment=self._payment(found[0]), entries=[ledger_entry(entry) for entry in found[1]]
        )

    def open_payments(self, after: int, now_us: int) -> api.OpenPayments:
        """What a reconciler has to ask the chain about: every payment whose end is not proven, and late looks."""
        now_s = now_us // 1_000_000
        rows = self._ledger.read(lambda db: payments.to_ask_about(db, after, now_s, MAX_OPEN))
        return api.OpenPayments(
            payments=[_open_payment(payment) for payment in rows],
            next=rows[-1].signed_seq if len(rows) == MAX_OPEN else None,
        )

    def wallet(self, wallet: api.Wallet, now_us: int) -> api.WalletView:
        """What a wallet spent, and in what it may be asked to pay. Reads every payment of the ledger."""

        def read(db: sqlite3.Connection) -> tuple[payments.WalletSpend, list[Asset]]:
            spent = payments.of_wallet(db, wallet.label, payments.budget_day(now_us))
            return spent, payable_assets(self._policies.in_force(db))

        spent, assets = self._ledger.read(read)
        return api.WalletView(
            wallet=wallet,
            spent_today=format_usd(spent.today),
            spent=format_usd(spent.total),
            payments=spent.payments,
            open_payments=spent.unproven,
            tokens=[
                api.WalletToken(
                    network=asset.network,
                    address=asset.address,
                    symbol=asset.symbol,
                    decimals=asset.decimals,
                )
                for asset in sorted(assets, key=str)
            ],
        )

    def frozen(self) -> api.Frozen:
        return self._ledger.read(_frozen)

    def _payment(self, payment: Payment) -> api.PaymentView:
        asset = self._policies.base.assets.find(payment.network, payment.asset)
        return api.PaymentView.model_validate(
            {
                "payment_id": payment.payment_id,
                "state": payment.state,
                "delivered": payment.delivered,
                "proven": payment.proven,
                "domain": payment.domain,
                "caller": payment.caller,
                "wallet": payment.wallet,
                "amount": str(payment.amount)
                if asset is None
                else format_token_amount(payment.amount, asset.decimals),
                "asset": payment.asset if asset is None else asset.symbol,
                "network": payment.network,
                "amount_usd": format_usd(payment.usd_micros),
                "pay_to": payment.authorization.to,
                "day": payment.day,
                "signed_at": payment.signed_at,
                "valid_before": payment.authorization.valid_before,
            }
        )

    def _asset_name(self, key: str) -> str:
        return asset_name(self._policies.base.assets, key)


def asset_name(assets: AssetTable, key: str) -> str:
    """ "USDC@eip155:8453" for the "network address" under which the record adds an asset up."""
    network, _, address = key.partition(" ")
    asset = assets.find(network, address)
    return key if asset is None else str(asset)


def ledger_entry(entry: Entry) -> api.LedgerEntry:
    return api.LedgerEntry(
        seq=entry.seq,
        ts=entry.ts,
        type=entry.type,
        actor=entry.actor,
        data=dict(entry.data),
        hash=entry.hash.hex(),
    )


def _refused(entry: Entry) -> api.RefusedPayment:
    data = entry.data
    return api.RefusedPayment(
        at=entry.ts,
        domain=data["domain"],
        caller=data["caller"],
        code=data["code"],
        detail=data["detail"],
        approval=data.get("approval"),
    )


def _open_payment(payment: Payment) -> api.OpenPayment:
    return api.OpenPayment(
        payment_id=payment.payment_id,
        state=payment.state,
        network=payment.network,
        asset=payment.asset,
        payer=payment.authorization.from_,
        pay_to=payment.authorization.to,
        amount=str(payment.amount),
        nonce="0x" + payment.authorization.nonce.hex(),
        signed_at=payment.signed_at,
        valid_before=payment.authorization.valid_before,
    )


def payable_assets(policy: Policy) -> list[Asset]:
    """Tokens that an offer may be paid in."""
    known, allowed = policy.assets.payable(policy.networks), policy.allowed_assets
    return [a for a in known if allowed is None or any(token.names(a) for token in allowed)]


def _budgets(db: sqlite3.Connection, policy: Policy, day: str) -> list[api.BudgetView]:
    return [
        api.BudgetView(
            domain=rule.domain,
            caller=rule.caller,
            daily=format_usd(rule.daily),
            spent_today=format_usd(payments.spent_on(db, day, domain=rule.domain, caller=rule.caller)),
        )
        for rule in policy.budgets
    ]


def _frozen(db: sqlite3.Connection) -> api.Frozen:
    value: dict[str, Any] | None = facts.get(db, Kind.FROZEN, "")
    if value is None:
        return api.Frozen(frozen=False)
    return api.Frozen(frozen=True, by=value["by"], reason=value["reason"], since=value["at"])
