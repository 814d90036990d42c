"""`python -m demo.with_agent`: an agent with a task and a budget meets a page that wants its owner's money.

docs/worked-example.md is its output. Exit code 0 only if the agent got what it was given, and nothing beyond it.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from demo.stage import Stage, StepFailed, perform, start_egress, start_keyd, start_seller

BUDGET = "0.005"
SPENT = "0.005"
"""0.001 for the weather, 0.002 for the forecast, twice 0.001 for items; the third item is refused."""


def play(stage: Stage, running: ExitStack) -> None:
    """The whole example. Raises StepFailed if the agent could do what only a person may."""
    stage.headline("What a person sets up")
    api = start_seller(stage, running)
    keyd = start_keyd(stage, running, api)
    keyd.stop()
    keyd.take_away("admin")
    stage.say("keyd.toml now names this user an agent, and no administrator; keyd starts again")
    keyd.start()
    egress = start_egress(stage, running, keyd)
    before = _policy(stage)

    stage.headline(f"An agent gets a task, and ${BUDGET} for it")
    stage.environment |= {
        "OSMODA_PROXY": egress.url,
        "OSMODA_CA": str(egress.ca_certificate),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = (
        f"keyctl x402 run --label research --budget {BUDGET} --no-proxy '' -- python -m demo.agent {api}"
    )
    stage.show(command)
    print(stage.output(command, with_errors=True).rstrip(), flush=True)

    stage.headline("What came of it")
    stage.say(stage.run("keyctl x402 spend --by session"))
    stage.say(stage.run("keyctl x402 pending"))
    stage.say(stage.run("python -m ledger verify keyd/ledger.sqlite3").splitlines()[0])
    after = _policy(stage)
    limits = ("daily_budget", "max_payment", "allowed_domains", "denied_domains")
    if [after[name] for name in limits] != [before[name] for name in limits]:
        raise StepFailed("the agent changed the limits")
    if after["spent_today"] != SPENT:
        raise StepFailed(f"the agent spent {after['spent_today']} USD")

    stage.headline("What the budget of a task is not: a program that drops its credentials pays as its user")
    curl = f"curl -sS -o /dev/null -w %{{http_code}} --proxy {egress.url} {api}/weather"
    stage.say(stage.run(curl))
    stage.say(stage.run("keyctl x402 spend --by session"))


def _policy(stage: Stage) -> dict[str, object]:
    view: dict[str, object] = json.loads(stage.output("keyctl x402 policy --json"))
    return view


if __name__ == "__main__":
    sys.exit(perform(play))
