"""keyd.toml: what it accepts, and what it says otherwise."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from keyd import config
from keyd.api import Role
from keyd.configfile import ConfigError
from keyd.peer import Peer, Roles

MINIMAL = """
[x402]
allowed_domains = ["api.example.com"]
"""


def load(tmp_path: Path, text: str) -> config.Settings:
    path = tmp_path / "keyd.toml"
    path.write_text(text)
    return config.load(path)


def test_the_defaults_can_pay_nobody(tmp_path: Path) -> None:
    policy = load(tmp_path, "").policy()
    assert policy.allowed_domains == ()
    assert policy.daily_budget == 1_000_000
    assert policy.max_payment == 100_000


def test_every_documented_key_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        socket = "/run/x.sock"
        socket_mode = "0600"
        state_dir = "/var/lib/x"
        kek_file = "/etc/x/kek"
        [peers]
        egress = ["root", 991]
        admin = ["@root"]
        agent = []
        reconciler = []
        [x402]
        enable = true
        default_wallet_label = "main"
        daily_budget_usd = "2.50"
        max_payment_usd = "0.25"
        allowed_domains = ["api.example.com", "*.example.org", "http://127.0.0.1:4021", "*"]
        networks = ["eip155:84532", "eip155:31337"]
        allowed_assets = ["USDC@eip155:84532", "TEST"]
        [[assets]]
        network = "eip155:31337"
        address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
        symbol = "TEST"
        decimals = 18
        eip712_name = "Test Dollar"
        eip712_version = "1"
        usd_value = "0.50"
        """,
    )
    policy = settings.policy()
    assert (policy.daily_budget, policy.max_payment) == (2_500_000, 250_000)
    asset = policy.assets.find("eip155:31337", "0x5fbdb2315678afecb367f032d93f642f64180aa3")
    assert asset is not None
    assert (asset.decimals, asset.usd_per_token, asset.chain_id) == (18, 500_000, 31337)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[x402]\nper_paymnt = '1'",
            "unknown key 'x402.per_paymnt', did you mean",
        ),
        ("[x402]\ndaily_budget = '1'", "did you mean 'daily_budget_usd'?"),
        ("sockets = 'x'", "unknown key 'sockets', did you mean 'socket'? (known: assets,"),
        ("[[assets]]\nfoo = 1", "unknown key 'assets.0.foo' (known: address, decimals"),
        ("[x402]\ndaily_budget_usd = 1.0", 'write money as a string, like "1.00"'),
        ("[x402]\ndaily_budget_usd = '-1'", "not a USD amount"),
        ("[x402]\nnetworks = ['base']", "not a CAIP-2 id"),
        ("[x402]\nnetworks = ['eip155:31337']", "no token of eip155:31337 is known"),
        ("[x402]\nallowed_domains = ['https://x.org/path']", "without a path"),
        ("[x402]\nallowed_domains = 'x.org'", "allowed_domains"),
        ("[x402]\nenable = 'yes'", "x402.enable"),
        ("[x402]\ndefault_wallet_label = '../x'", "x402.default_wallet_label"),
        ("socket_mode = '999'", "socket_mode"),
        ("[[assets]]\nnetwork = 'eip155:1'", "key 'assets.0.address' is missing"),
        ("[x402.pay_to]\n'*.x.org' = []", "name one domain here"),
        ("[[x402.budgets]]\ndomain='*'\ndaily_usd='1'", "name one domain here"),
        ("[[x402.budgets]]\ndaily_usd='1'", "name a domain, a caller, or both"),
        (
            "[[x402.budgets]]\ncaller='uid:1'\ndaily_usd='1'\n[[x402.budgets]]\ncaller='uid:1'\ndaily_usd='2'",
            "two budgets",
        ),
        ("x = ", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_token_that_counts_as_nothing_is_refused(tmp_path: Path) -> None:
    asset = (
        "[[assets]]\nnetwork='eip155:1'\naddress='0x5FbDB2315678afecb367f032d93F642f64180aa3'\nsymbol='T'\n"
        "decimals=6\neip712_name='T'\neip712_version='1'\nusd_value="
    )
    assert load(tmp_path, asset + "'0.01'").assets[0].usd_value == 10_000
    with pytest.raises(ConfigError, match="spent without limit"):
        load(tmp_path, asset + "'0.00'")


def test_a_missing_file_is_an_error_and_not_an_empty_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "nothing.toml")


def test_the_environment_cannot_change_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIR", "/elsewhere")
    monkeypatch.setenv("X402", '{"daily_budget_usd": "1000"}')
    settings = load(tmp_path, MINIMAL)
    assert settings.state_dir == Path("/var/lib/osmoda-keyd")
    assert settings.x402.daily_budget_usd == 1_000_000


def roles(tmp_path: Path, peers: str) -> Roles:
    return Roles.resolve(load(tmp_path, f"[peers]\n{peers}").peers)


def test_roles_come_from_names_uids_and_groups(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    table = roles(
        tmp_path, f"egress=['nobody']\nadmin=[{os.getuid()}]\nagent=['12345']\nreconciler=['@nogroup']"
    )
    assert table.of(Peer(1, nobody.pw_uid, 0)) == {Role.EGRESS, Role.RECONCILER}
    assert table.of(Peer(1, os.getuid(), os.getgid())) == {Role.ADMIN}
    assert table.of(Peer(1, 12345, 12345)) == {Role.AGENT}
    assert table.of(Peer(1, 54321, 54321)) == frozenset()


def test_one_of_several_roles_is_found_by_user_and_by_group(tmp_path: Path) -> None:
    nobody = Peer(1, pwd.getpwnam("nobody").pw_uid, 0)
    table = roles(tmp_path, "egress=['nobody']\nagent=['12345']\nreconciler=['@nogroup']")
    for role in Role:
        assert table.any_of(nobody, frozenset({role})) == (role in table.of(nobody))
    assert table.any_of(nobody, frozenset({Role.ADMIN, Role.RECONCILER}))
    assert not table.any_of(Peer(1, 12345, 12345), frozenset({Role.EGRESS, Role.RECONCILER}))


@pytest.mark.parametrize("entry", ["no-such-user", "@no-such-group"])
def test_a_name_that_does_not_exist_stops_the_start(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        roles(tmp_path, f"egress=['{entry}']")
