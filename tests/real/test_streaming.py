"""A paid stream arrives as it is sent."""

from __future__ import annotations

import ssl

import httpx
import pytest

from tests.real.support.counterparts import Authority
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real

EVENTS = 3


@pytest.mark.parametrize("server", ["server_http", "server_https"])
def test_each_event_of_a_paid_stream_arrives_before_the_next_one_exists(
    server: str, payer: Payer, authority: Authority, request: pytest.FixtureRequest
) -> None:
    """The server waits until it is told of each. A proxy that held the first one back would wait for ever."""
    url = f"{request.getfixturevalue(server)}/stream"
    trust = ssl.create_default_context(cafile=payer.egress.ca_certificate)
    arrived = []
    with (
        httpx.Client(proxy=payer.egress.url, verify=trust, timeout=60) as program,
        httpx.Client(verify=ssl.create_default_context(cafile=authority.ca), timeout=60) as aside,
        program.stream("GET", url) as answer,
    ):
        assert answer.status_code == 200
        for line in filter(None, answer.iter_lines()):
            arrived.append(line)
            aside.post(f"{url}/arrived").raise_for_status()
    assert arrived == [f"data: {number}" for number in range(EVENTS)]
