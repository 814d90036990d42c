"""What the module accepts, and what it refuses before anything is built."""

from __future__ import annotations

import pytest

from tests.nix.nix import PACKAGE, Nix, NixError

pytestmark = pytest.mark.real

BOTH = """
  services.osmoda.keyd.x402 = { enable = true; allowedDomains = [ "api.example.com" ]; };
  services.osmoda.egress.x402.enable = true;
"""


def keyd(settings: str) -> str:
    return f"{{ services.osmoda.keyd.x402 = {{ enable = true; {settings} }}; }}"


def egress(settings: str) -> str:
    return f"{{ services.osmoda.egress.x402 = {{ enable = true; {settings} }}; }}"


def reconcile(settings: str) -> str:
    return f"{{ services.osmoda.reconcile.x402 = {{ enable = true; {settings} }}; }}"


def test_nothing_runs_unless_it_is_enabled(nix: Nix) -> None:
    nothing = {"failed": [], "files": {}, "groups": [], "units": {}, "users": {}}
    assert nix.module("system", "{}") == nothing


def test_enabling_both_is_enough(nix: Nix) -> None:
    assert nix.module("failed", f"{{ {BOTH} }}") == []
    assert nix.module("units", f"{{ {BOTH} }}").keys() == {
        "osmoda-keyd.service",
        "osmoda-keyd.socket",
        "osmoda-egress.service",
    }


def test_users_to_be_fenced_in_bring_the_fence_and_its_tool(nix: Nix) -> None:
    settings = f'{{ {BOTH} services.osmoda.egress.x402.fence = [ "alice" "uid:1001" ]; }}'
    assert "osmoda-fence.service" in nix.module("units", settings)
    assert nix.module("paths", settings)["osmoda-fence"] == ["/usr"]


@pytest.mark.parametrize("user", ["uid:0", "@group", "alice; accept"])
def test_what_is_no_user_cannot_be_fenced_in(nix: Nix, user: str) -> None:
    with pytest.raises(NixError, match="fence"):
        nix.module("system", egress(f'fence = [ "{user}" ];'))


def test_the_command_is_there_for_everybody(nix: Nix) -> None:
    assert nix.module("packages", f"{{ {BOTH} }}") == [str(PACKAGE)]


def test_each_daemon_is_a_user_of_its_own_and_only_clients_may_connect(nix: Nix) -> None:
    settings = f'{{ {BOTH} services.osmoda.reconcile.x402 = {{ enable = true; configFile = "/etc/r"; }}; }}'
    users = nix.module("users", settings)
    assert users == {
        "osmoda-keyd": {"isSystemUser": True, "group": "osmoda-keyd", "extraGroups": []},
        "osmoda-egress": {"isSystemUser": True, "group": "osmoda-egress", "extraGroups": ["osmoda"]},
        "osmoda-reconcile": {"isSystemUser": True, "group": "osmoda-reconcile", "extraGroups": ["osmoda"]},
    }
    groups = set(nix.module("groups", settings))
    assert groups == {*users, "osmoda", "osmoda-admin", "osmoda-agent"}


@pytest.mark.parametrize("service", ["osmoda-keyd", "osmoda-egress"])
def test_a_new_configuration_restarts_the_daemon(nix: Nix, service: str) -> None:
    file = service.removeprefix("osmoda-") + ".toml"
    triggers = nix.module("restartTriggers", f"{{ {BOTH} }}")[service]
    assert triggers == [nix.module("files", f"{{ {BOTH} }}")[file]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (keyd("dailyBudgetUsd = 1.0;"), "dailyBudgetUsd' is not of type"),
        (keyd('dailyBudgetUsd = "1 USD";'), "dailyBudgetUsd' is not of type"),
        (keyd('dailyBudgetUsd = "0.0000001";'), "dailyBudgetUsd' is not of type"),
        (keyd('allowedDomains = "api.example.com";'), "allowedDomains' is not of type"),
        (keyd('networks = [ "base" ];'), "networks.[0]' is not of type"),
        (keyd('payTo."api.example.com" = [ "0x12" ];'), "payTo.api.example.com.[0]' is not of type"),
        (keyd("kekCredential.path = ./kek;"), "kekCredential.path' is not of type"),
        (keyd('kekCredential.path = "kek.cred";'), "kekCredential.path' is not of type"),
        (keyd('kekCredential.path = "/run/../nix/store/kek";'), "kekCredential.path' is not of type"),
        (keyd('kekCredential.path = "//nix/store/kek";'), "kekCredential.path' is not of type"),
        (keyd('kekCredential.path = "/nix/./store/kek";'), "kekCredential.path' is not of type"),
        (keyd('kekCredential.path = "/etc/kek\\nUser=root";'), "kekCredential.path' is not of type"),
        (keyd("dailyBudget = 1;"), "dailyBudget' does not exist"),
        (
            keyd('budgets = [ { domain = "a.example"; } ];'),
            "budgets.[0].dailyUsd' was accessed but has no value",
        ),
        (keyd('budgets = [ { dailyUsd = "1"; perDay = 1; } ];'), "budgets.[0].perDay' does not exist"),
        (egress("maxRetries = 2;"), "maxRetries' is not of type"),
        (egress('upstreamProxy = "http://user:secret@proxy:3128";'), "upstreamProxy' is not of type"),
        (egress('intercept = "none";'), "intercept' is not of type"),
        (egress('callers = [ { name = "ci"; tokenSha256 = "secret"; } ];'), "tokenSha256' is not of type"),
        (reconcile('networks = [ { network = "eip155:1"; rpc = [ ]; } ];'), "rpc' is not of type"),
    ],
)
def test_a_wrong_type_or_name_ends_the_evaluation(nix: Nix, settings: str, says: str) -> None:
    with pytest.raises(NixError) as refused:
        nix.module("system", settings)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (keyd('kekCredential.path = builtins.toFile "kek" "0123";'), "kekCredential.path is"),
        (
            egress('upstreamProxyCredentialFile = builtins.toFile "c" "u:p";'),
            "egress.x402.upstreamProxyCredentialFile is",
        ),
        (reconcile('configFile = builtins.toFile "r" "";'), "reconcile.x402.configFile is"),
        (keyd('settings.x402.daily_budget_usd = "9";'), "sets x402.daily_budget_usd, which"),
        (keyd('settings.x402.approve_above_usd = "9";'), "sets x402.approve_above_usd, which"),
        (keyd('settings.x402.limits.max_payment_usd = "9";'), "sets x402.limits.max_payment_usd, which"),
        (keyd('settings.peers.admin = [ "mallory" ];'), "sets peers.admin, which"),
        (keyd('settings.x402.pay_to."a.example" = [ ];'), "sets x402.pay_to, which"),
        (keyd("settings.x402 = 1;"), "sets x402, which"),
        (keyd('settings.kek_file = "/etc/kek";'), "sets kek_file, which"),
        (keyd('settings.socket_mode = "0666";'), "sets socket_mode, which"),
        (egress("settings.x402.max_retries = 1;"), "sets x402.max_retries, which"),
        (egress('settings = { listen = ":1"; state_dir = "/x"; };'), "sets listen, state_dir, which"),
        (
            f'{{ {BOTH} services.osmoda.keyd.x402.socket = "/run/x/y"; }}',
            "egress.x402.keydSocket is /run/osmoda/keyd.sock, but keyd",
        ),
        (
            """{ services.osmoda.keyd.x402 = { enable = true; socket = "/run/x/y"; };
                 services.osmoda.reconcile.x402 = { enable = true; configFile = "/r"; }; }""",
            "reconcile.x402.keydSocket is /run/osmoda/keyd.sock, but keyd",
        ),
        (reconcile('configFile = "/r"; settings.newer_key = 1;'), "settings would be ignored"),
        (reconcile(""), "either networks or configFile"),
        (
            reconcile('configFile = "/r"; networks = [ { network = "eip155:1"; rpc = [ "https://a" ]; } ];'),
            "either networks or configFile",
        ),
    ],
)
def test_what_is_well_typed_but_wrong_fails_an_assertion(nix: Nix, settings: str, says: str) -> None:
    (message,) = nix.module("failed", settings)
    assert says in message


@pytest.mark.parametrize(
    "settings",
    [
        keyd('kekCredential.path = "/run/secrets/kek";'),
        keyd('kekCredential.path = "/srv/.secrets/kek-2.cred";'),
        reconcile('configFile = "/run/secrets/reconcile.toml";'),
        keyd('settings = { x402.newer_key = "9"; peers.newer_role = [ ]; };'),
        egress('keydSocket = "/run/forwarded/keyd.sock";'),
        f'{{ {BOTH} services.osmoda.keyd.x402.socket = "/run/x/y"; services.osmoda.egress.x402.keydSocket = "/run/x/y"; }}',
    ],
)
def test_their_twins_that_are_right_pass(nix: Nix, settings: str) -> None:
    assert nix.module("failed", settings) == []
