"""What an administrator has to hear of, and what he was told already. Pure.

A condition is told once: as long as it lasts nothing more is said, and if it ends and comes back, it is told again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Final

from keyd.api import LEDGER_WRITE_FAILED, BudgetView, Health, PolicyView

THRESHOLDS: Final = (80, 100)
"""Percent of a daily budget."""
MAX_TEXT: Final = 300
"""Characters of one text; the summary of a proposal is the longest, and quotes a seller."""


@dataclass(frozen=True, slots=True)
class Alert:
    """`id` stays the same as long as the condition lasts. `text` is one printable line."""

    id: str
    kind: str
    text: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


KEYD_UNREACHABLE: Final = "keyd_unreachable"
LEDGER_FAILURE: Final = "ledger_failure"


def keyd_unreachable() -> Alert:
    return Alert(KEYD_UNREACHABLE, KEYD_UNREACHABLE, "keyd does not answer: nothing is paid")


def ledger_failure() -> Alert:
    words = "keyd cannot use its ledger: nothing is paid; look at journalctl -u osmoda-keyd and at the disk"
    return Alert(LEDGER_FAILURE, LEDGER_FAILURE, words)


def conditions(view: PolicyView, health: Health) -> list[Alert]:
    """Everything that is worth telling in what keyd says of itself."""
    return [*_budgets(view), *_frozen(view), *_waiting(view), *_problems(view, health)]


def _budgets(view: PolicyView) -> Iterator[Alert]:
    whole = BudgetView(domain=None, caller=None, daily=view.daily_budget, spent_today=view.spent_today)
    for budget in (whole, *view.budgets):
        daily, spent = Decimal(budget.daily), Decimal(budget.spent_today)
        whose = " ".join(part for part in (budget.domain, budget.caller) if part) or "all"
        for percent in THRESHOLDS:
            if daily > 0 and spent * 100 >= daily * percent:
                yield Alert(
                    f"budget:{view.day}:{percent}:{whose}",
                    f"budget_{percent}",
                    printable(
                        f"{percent} % of the daily budget of {whose} is spent: {spent} of {daily} USD on {view.day}"
                    ),
                )


def _frozen(view: PolicyView) -> Iterator[Alert]:
    frozen = view.frozen
    if frozen.frozen:
        said = f"payments were frozen by {frozen.by or 'somebody'}: {frozen.reason or 'no reason given'}"
        yield Alert(f"frozen:{frozen.since}", "frozen", printable(said))


def _waiting(view: PolicyView) -> Iterator[Alert]:
    for proposal in view.pending:
        kind = "payment_held" if proposal.kind == "payment" else "proposal"
        said = f"waits for `osmoda-keyctl x402 approve {proposal.id}`: {proposal.summary}"
        yield Alert(f"pending:{proposal.id}", kind, printable(said))


def _problems(view: PolicyView, health: Health) -> Iterator[Alert]:
    """Why keyd pays nothing. That it is frozen is told for itself, with who and why."""
    problems = [problem for problem in health.problems if not (view.frozen.frozen and "frozen" in problem)]
    for problem in problems:
        kind = LEDGER_FAILURE if problem.startswith(LEDGER_WRITE_FAILED) else "cannot_pay"
        yield Alert(f"problem:{problem}", kind, printable(problem))


def printable(text: str) -> str:
    """One line without control characters, clipped: sellers and agents write parts of it, and people read it in
    terminals and mails."""
    clipped = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in clipped)
