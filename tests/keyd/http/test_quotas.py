"""Places for connections: nobody takes those of another role."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.api import MAX_BODY, Role
from keyd.http import connection, listener
from keyd.http.quotas import OWN_DESCRIPTORS, SHARES, Place, Quotas, Share, shares
from keyd.peer import Peer, Roles

EGRESS, AGENT, OTHER_AGENT, STRANGER, MANY = 991, 1000, 1001, 2000, 3000
UIDS = {
    Role.EGRESS: frozenset({EGRESS, MANY}),
    Role.AGENT: frozenset({AGENT, OTHER_AGENT, MANY}),
    Role.ADMIN: frozenset({0}),
    Role.RECONCILER: frozenset[int](),
}
ROLES = Roles(UIDS, dict.fromkeys(Role, frozenset()))
SMALL = {Role.EGRESS: Share(3, 3), Role.ADMIN: Share(2, 2), Role.RECONCILER: Share(1, 1)}
SMALL |= {Role.AGENT: Share(2, 3)}
TABLE = {**SMALL, None: Share(1, 2)}


def peer(uid: int) -> Peer:
    return Peer(1, uid, uid)


def taken(quotas: Quotas, uid: int, most: int = 100) -> list[Place]:
    """All the places that this user gets."""
    places = (quotas.take(peer(uid)) for _ in range(most))
    return [place for place in places if place is not None]


def test_a_user_gets_its_share_and_no_more() -> None:
    assert len(taken(Quotas(ROLES, TABLE), AGENT)) == 2


def test_users_of_one_role_share_what_it_has() -> None:
    quotas = Quotas(ROLES, TABLE)
    assert (len(taken(quotas, AGENT)), len(taken(quotas, OTHER_AGENT))) == (2, 1)


def test_strangers_and_agents_take_nothing_from_egress() -> None:
    quotas = Quotas(ROLES, TABLE)
    for uid in (AGENT, OTHER_AGENT, 0, *range(STRANGER, STRANGER + 50)):
        taken(quotas, uid)
    assert len(taken(quotas, EGRESS)) == 3


def test_a_user_with_several_roles_counts_under_the_first() -> None:
    assert {place.role for place in taken(Quotas(ROLES, TABLE), MANY)} == {Role.EGRESS}


def test_a_place_that_is_given_back_can_be_taken_again() -> None:
    quotas = Quotas(ROLES, TABLE)
    [place] = taken(quotas, STRANGER)
    assert quotas.take(peer(STRANGER)) is None
    quotas.give_back(place)
    assert quotas.take(peer(STRANGER)) is not None


@given(
    st.lists(st.tuples(st.sampled_from([EGRESS, AGENT, OTHER_AGENT, STRANGER, 2001, 2002]), st.booleans()))
)
def test_counts_never_leave_their_bounds(steps: list[tuple[int, bool]]) -> None:
    quotas, held = Quotas(ROLES, TABLE), list[Place]()
    for uid, arrives in steps:
        if arrives and (place := quotas.take(peer(uid))) is not None:
            held.append(place)
        elif held and not arrives:
            quotas.give_back(held.pop(0))
        for role, share in TABLE.items():
            assert sum(place.role == role for place in held) <= share.together
        assert all(held.count(place) <= TABLE[place.role].each for place in held)


def test_everybody_has_a_share() -> None:
    assert SHARES.keys() == {*Role, None}


@pytest.mark.parametrize(("descriptors", "egress"), [(524_288, 1024), (1024, 800), (512, 288), (1, 1)])
def test_egress_gets_what_scarce_descriptors_leave(descriptors: int, egress: int) -> None:
    table = shares(descriptors)
    assert table[Role.EGRESS] == Share(egress, egress)
    if descriptors > 1:
        assert sum(share.together for share in table.values()) + OWN_DESCRIPTORS <= descriptors


PROTOCOL = (Path(__file__).resolve().parents[3] / "docs/keyd-protocol.md").read_text("utf-8")
LIMITS = PROTOCOL.partition("## Limits\n")[2].partition("\n## ")[0]


def test_the_document_has_the_shares() -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", LIMITS, re.MULTILINE)
    documented = {role: Share(int(each), int(together)) for role, each, together in rows}
    assert documented == {"none" if role is None else role.value: share for role, share in SHARES.items()}
    assert list(documented) == ["none" if role is None else role.value for role in SHARES]


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("request line and headers", f"{connection.MAX_HEAD // 1024} KiB"),
        ("head of a request, from its first byte", f"{connection.HEAD_S:.0f} s"),
        ("first byte of a new connection", f"{connection.HEAD_S:.0f} s"),
        ("body", f"{MAX_BODY // 1024} KiB, {connection.BODY_S:.0f} s"),
        ("between two requests", f"{connection.IDLE_S:.0f} s"),
        ("for a peer to take an answer", f"{connection.SEND_S:.0f} s"),
        ("request that waits while keyd stops", f"{listener.FINISH_S:.0f} s"),
    ],
)
def test_the_document_has_the_limits(what: str, limit: str) -> None:
    assert f"| {what} | {limit} |" in LIMITS
    assert (
        f"connections_exceeded` before it has asked anything, {listener.TURNED_AWAY_AT_ONCE} of them"
        in LIMITS
    )
