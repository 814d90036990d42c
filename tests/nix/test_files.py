"""The configuration files are built by a real Nix, and checked by the real programs while they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress.config import EgressSettings
from keyd import config
from keyd.configfile import load
from reconcile.config import ReconcileSettings
from tests.nix.nix import Nix, NixError

pytestmark = pytest.mark.real

USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
EVERYTHING_OF_KEYD = f"""{{
  services.osmoda.egress.x402.enable = true;
  services.osmoda.keyd.x402 = {{
    enable = true;
    enforce = false;
    defaultWalletLabel = "main";
    dailyBudgetUsd = "2.50";
    dailyBudgetPerCallerAndDomainUsd = "0.50";
    maxPaymentUsd = "0.25";
    paymentsPerMinute = 30;
    allowedDomains = [ "api.example.com" "*.example.org" "http://127.0.0.1:4021" ];
    deniedDomains = [ "bad.example.org" ];
    callers = [ "uid:1000" "proxy:ci" ];
    sessionRequired = [ "uid:1000" ];
    networks = [ "eip155:8453" "eip155:31337" ];
    pinPriceFactor = "1.5";
    approveAboveUsd = "0.10";
    quarantineAfter = 0;
    budgets = [ {{ domain = "api.example.com"; caller = "uid:1000"; dailyUsd = "0.20"; }} {{ caller = "proxy:ci"; dailyUsd = "1"; }} ];
    payTo."api.example.com" = [ "{USDC}" ];
    limits.allowedDomains = [ "*" ];
    peers.agent = [ 1000 "@users" ];
    assets = [ {{
      network = "eip155:31337"; address = "{USDC}"; symbol = "TEST"; decimals = 18;
      eip712Name = "Test \\"Dollar\\" \\\\ €"; eip712Version = "1"; usdValue = "1.00";
    }} ];
  }};
}}"""


def test_defaults_stay_what_keyd_has_by_itself(nix: Nix) -> None:
    built = config.load(nix.build("keyd.toml", "{ services.osmoda.keyd.x402.enable = true; }"))
    ours = config.PeerSettings(admin=["root", "@osmoda-admin"], agent=["@osmoda-agent"])
    assert built == config.Settings(peers=ours)


def test_every_setting_of_keyd_arrives(nix: Nix) -> None:
    built = config.load(nix.build("keyd.toml", EVERYTHING_OF_KEYD)).model_dump(mode="json")
    defaults = config.X402Settings().model_dump(mode="json")
    assert built["x402"] == defaults | {
        "enforce": False,
        "default_wallet_label": "main",
        "daily_budget_usd": "2.50",
        "daily_budget_per_caller_and_domain_usd": "0.50",
        "max_payment_usd": "0.25",
        "payments_per_minute": 30,
        "allowed_domains": ["api.example.com", "*.example.org", "http://127.0.0.1:4021"],
        "denied_domains": ["bad.example.org"],
        "callers": ["uid:1000", "proxy:ci"],
        "session_required": ["uid:1000"],
        "networks": ["eip155:8453", "eip155:31337"],
        "pin_price_factor": "1.50",
        "approve_above_usd": "0.10",
        "quarantine_after": 0,
        "budgets": [
            {"domain": "api.example.com", "caller": "uid:1000", "daily_usd": "0.20"},
            {"domain": None, "caller": "proxy:ci", "daily_usd": "1.00"},
        ],
        "pay_to": {"api.example.com": [USDC]},
        "limits": defaults["limits"] | {"allowed_domains": ["*"]},
    }
    assert built["peers"]["egress"] == ["osmoda-egress"]
    assert built["peers"]["agent"] == [1000, "@users"]
    assert built["assets"][0]["eip712_name"] == 'Test "Dollar" \\ €'


def test_egress_gets_its_settings(nix: Nix) -> None:
    settings = """{ services.osmoda.egress.x402 = {
      enable = true;
      maxRetries = 0;
      listen = "127.0.0.1:3128";
      drainSeconds = 2.5;
      allowPrivate = [ "127.0.0.1:4021" ];
      upstreamProxy = "http://proxy.example:3128";
      upstreamProxyCredentialFile = "/run/secrets/proxy";
      callers = [ { name = "ci"; tokenSha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; } ];
    }; }"""
    built = load(EgressSettings, nix.build("egress.toml", settings))
    assert (built.x402.enable, built.x402.max_retries, built.pays) == (True, 0, False)
    assert (built.listen, built.drain_seconds) == ("127.0.0.1:3128", 2.5)
    assert built.allow_private == ("127.0.0.1:4021",)
    assert [caller.name for caller in built.callers] == ["ci"]
    assert built.upstream_proxy is not None
    assert built.upstream_proxy.get_secret_value() == "http://proxy.example:3128"
    assert built.upstream_proxy_credential_file == "/run/credentials/osmoda-egress.service/upstream-proxy"


def test_the_reconciler_gets_its_networks(nix: Nix) -> None:
    settings = """{ services.osmoda.reconcile.x402 = {
      enable = true;
      networks = [ { network = "eip155:8453"; rpc = [ "https://a.example" "https://b.example" ]; agree = 1; } ];
    }; }"""
    (network,) = load(ReconcileSettings, nix.build("reconcile.toml", settings)).networks
    assert (network.network, network.agree, network.block) == ("eip155:8453", 1, "finalized")
    assert [url.get_secret_value() for url in network.rpc] == ["https://a.example", "https://b.example"]


def test_a_reconciler_with_secret_urls_has_no_file_in_the_store(nix: Nix) -> None:
    settings = '{ services.osmoda.reconcile.x402 = { enable = true; configFile = "/run/secrets/r"; }; }'
    assert nix.module("files", settings) == {}


@pytest.mark.parametrize(
    ("file", "settings", "says"),
    [
        (
            "keyd.toml",
            '{ services.osmoda.keyd.x402 = { enable = true; settings.x402.max_paymnt_usd = "1"; }; }',
            "unknown key 'x402.max_paymnt_usd', did you mean 'max_payment_usd'?",
        ),
        (
            "keyd.toml",
            '{ services.osmoda.keyd.x402 = { enable = true; allowedDomains = [ "https://a.example/path" ]; }; }',
            "without a path or user",
        ),
        (
            "keyd.toml",
            '{ services.osmoda.keyd.x402 = { enable = true; networks = [ "eip155:4242" ]; }; }',
            "no token of eip155:4242 is known",
        ),
        (
            "egress.toml",
            '{ services.osmoda.egress.x402 = { enable = true; listen = "localhost"; }; }',
            "is not an address and port",
        ),
        (
            "reconcile.toml",
            """{ services.osmoda.reconcile.x402 = {
              enable = true; networks = [ { network = "eip155:1"; rpc = [ "http://rpc.example" ]; } ]; }; }""",
            "write https://",
        ),
    ],
)
def test_a_file_that_its_daemon_would_refuse_is_not_built(
    nix: Nix, file: str, settings: str, says: str
) -> None:
    with pytest.raises(NixError) as refused:
        nix.build(file, settings)
    assert says in str(refused.value)


def test_a_built_file_names_no_secret(nix: Nix) -> None:
    built: Path = nix.build("keyd.toml", EVERYTHING_OF_KEYD)
    assert "kek" not in built.read_text()
