"""`python -m demo`: plain curl pays a local API through the proxy, and shows what keyd made of it.

Exit code 0 only if every step showed what it should: 402 without the proxy, 200 through it, a refusal above
the cap, and a ledger that verifies and agrees with the seller's books.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from contextlib import ExitStack
from decimal import Decimal

from demo.stage import Stage, StepFailed, perform, start_egress, start_keyd, start_seller

OUTCOME_S = 60.0
"""How long egress may take to report a payment's outcome: it does so after curl has its answer."""


def main() -> int:
    if shutil.which("curl") is None:
        print("demo: error: curl is missing, and the demo pays with it.", file=sys.stderr)
        print("demo: hint: apt-get install curl, then run `make demo` again.", file=sys.stderr)
        return 1
    return perform(play)


def play(stage: Stage, running: ExitStack) -> None:
    """The whole demo, step by step. Raises StepFailed at the first one that does not show what it should."""
    stage.headline("A paid API, a wallet, and the proxy, all on this machine and with test money")
    api = start_seller(stage, running)
    keyd = start_keyd(stage, running, api)
    egress = start_egress(stage, running, keyd)

    stage.headline("curl without the proxy: the API wants money")
    curl(stage, f"{api}/weather", expected=402)

    stage.headline("The same curl through the proxy: paid, answered")
    curl(stage, f"--proxy {egress.url} {api}/weather", expected=200)

    stage.headline("A price above the cap of $0.10: refused, and curl sees the original 402 and the reason")
    refused = curl(stage, f"--proxy {egress.url} {api}/report", expected=402)
    if "X-402-Egress: rejected; reason=cap_per_payment" not in refused:
        raise StepFailed("the refusal does not name its reason, cap_per_payment")
    stage.say(stage.run("keyctl x402 explain cap_per_payment"))

    stage.headline("What was paid, and what is left")
    paid = show_payments(stage, api)
    show_budget(stage, paid)
    verdict = stage.run("keyctl ledger verify").splitlines()[0]
    stage.say(verdict)
    if re.fullmatch(r"ledger verified: [1-9][0-9]* entries", verdict) is None:
        raise StepFailed("the ledger does not verify")


def curl(stage: Stage, arguments: str, expected: int) -> str:
    """Shows status, reason and content of the answer; the whole answer. Raises StepFailed for another status."""
    answer = stage.run(f"curl -sSi {arguments}")
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    status, *fields = head.splitlines()
    stage.say(status)
    for line in fields:
        name = line.partition(":")[0].lower()
        if name == "x-402-egress":
            stage.say(line)
        elif name in ("payment-required", "payment-response"):
            stage.say(line if len(line) <= 70 else line[:70] + "…")
    if expected == 200:
        stage.say(body)
    if status.split()[1] != str(expected):
        raise StepFailed(f"the answer should have had status {expected}")
    return head + "\n\n" + body


def show_payments(stage: Stage, api: str) -> Decimal:
    """Payments by the ledger, in USD. Raises StepFailed if the seller's books say anything else."""
    tail = "keyctl ledger tail --json"
    deadline = time.monotonic() + OUTCOME_S
    while True:
        entries = [json.loads(line) for line in stage.output(tail).splitlines()]
        signed = [entry["data"] for entry in entries if entry["type"] == "x402.payment.signed"]
        settled = [entry["data"] for entry in entries if entry["type"] == "x402.payment.settled"]
        if len(settled) >= len(signed) or time.monotonic() > deadline:
            break
    stage.say(stage.run("keyctl x402 payments"))
    books = json.loads(stage.run(f"curl -sS {api}/books"))
    for sale in books:
        stage.say(f"by the seller's books: {usdc(sale['value'])} USDC")
    by_ledger = [data["authorization"]["value"] for data in signed]
    if len(settled) != len(signed) or by_ledger != [sale["value"] for sale in books]:
        raise StepFailed("the seller's books and the ledger do not agree")
    return sum((usdc(value) for value in by_ledger), Decimal())


def show_budget(stage: Stage, paid: Decimal) -> None:
    stage.say(stage.run("keyctl x402 policy").splitlines()[0])
    policy = json.loads(stage.output("keyctl x402 policy --json"))
    if paid == 0 or Decimal(policy["spent_today"]) != paid:
        raise StepFailed(f"keyd counts {policy['spent_today']} USD as spent, but {paid} were paid")


def usdc(atomic: str) -> Decimal:
    return Decimal(atomic).scaleb(-6).normalize()


if __name__ == "__main__":
    sys.exit(main())
