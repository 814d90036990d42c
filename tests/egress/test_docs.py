"""docs/egress.md says what the settings are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mitmproxy import http
from pydantic import BaseModel

from egress.config import EgressSettings
from egress.paying import policy, steering
from egress.paying.steering import Wishes
from egress.stack import paystream
from keyd.core.applimits import AppLimits
from keyd.reasons import Reason

PAGE = (Path(__file__).parents[2] / "docs/egress.md").read_text()


def settings(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """`key` → default as TOML, for every key of `model` and of its tables."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            found |= settings(type(field.default), f"{prefix}{name}.")
        else:
            found[prefix + name] = "none" if field.default is None else f"`{json.dumps(field.default)}`"
    return found


def test_the_page_names_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| (.+?) \|", PAGE, re.MULTILINE)
    assert dict(rows) == settings(EgressSettings)


def test_the_examples_of_what_a_program_may_say_are_understood() -> None:
    said = re.findall(r"^\| `(X-402-[A-Za-z]+): (.+?)` \|", PAGE, re.MULTILINE)
    assert {name for name, _ in said} == {steering.MAX, steering.PAY, steering.INTENT}
    for name, text in said:
        wishes = Wishes.of(http.Headers([(name.encode(), text.encode())]))
        assert wishes.refusal is (Reason.APP_DECLINED if text == "none" else None)
        AppLimits.parse(wishes.max_spend, wishes.prefer)


def test_the_page_quotes_the_limits_that_are_in_force() -> None:
    assert f"at most {paystream.MAX_402_BODY >> 20} MiB and {paystream.HOLD_LIMIT_S:.0f} seconds" in PAGE
    assert f"every {policy.POLL_INTERVAL_S:.0f} seconds" in PAGE
