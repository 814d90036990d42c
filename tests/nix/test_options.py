"""The options, their types and their defaults: those of the configuration files, and none besides."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from egress.config import CallerSettings, EgressSettings
from keyd.config import (
    AssetSettings,
    BudgetSettings,
    LimitSettings,
    PeerSettings,
    PrepaySettings,
    Settings,
    X402Settings,
)
from reconcile.config import HookSettings, NetworkSettings, ReconcileSettings
from tests.nix.nix import Nix

pytestmark = pytest.mark.real

Options = dict[str, dict[str, Any]]

KEYD = "services.osmoda.keyd.x402."
EGRESS = "services.osmoda.egress.x402."
RECONCILE = "services.osmoda.reconcile.x402."


@pytest.fixture(scope="module")
def options(nix: Nix) -> Options:
    return {option["name"]: option for option in nix.module("options", "{}")}


@pytest.mark.parametrize(
    ("name", "type_", "default"),
    [
        (KEYD + "enable", "boolean", False),
        (KEYD + "defaultWalletLabel", "string matching [a-z0-9][a-z0-9._-]{0,62}", "default"),
        (KEYD + "dailyBudgetUsd", r"string matching [0-9]{1,12}(\.[0-9]{1,6})?", "1.00"),
        (KEYD + "allowedDomains", "list of string", []),
        (EGRESS + "enable", "boolean", False),
        (EGRESS + "keydSocket", "string", "/run/osmoda/keyd.sock"),
        (EGRESS + "maxRetries", "integer between 0 and 1", 1),
    ],
)
def test_the_options_that_others_build_on(options: Options, name: str, type_: str, default: object) -> None:
    assert (options[name]["type"], options[name]["default"]) == (type_, default)


def test_every_option_is_explained(options: Options) -> None:
    assert [name for name, option in options.items() if not option["description"].strip()] == []


@pytest.mark.parametrize(
    ("prefix", "model", "without", "besides"),
    [
        # The units make socket and state folder, and pass the key; `x402` is the prefix itself.
        (
            KEYD,
            Settings,
            {"socket_mode", "state_dir", "kek_file", "x402"},
            {*X402Settings.model_fields, "kek_credential.path", "kek_credential.encrypted", "settings"},
        ),
        (KEYD + "peers.", PeerSettings, set(), set()),
        (KEYD + "limits.", LimitSettings, set(), set()),
        (KEYD + "budgets.*.", BudgetSettings, set(), set()),
        (KEYD + "prepay.*.", PrepaySettings, set(), set()),
        (KEYD + "assets.*.", AssetSettings, set(), set()),
        (
            EGRESS,
            EgressSettings,
            {"state_dir", "x402"},
            {"enable", "flat_dialect", "max_retries", "settings"},
        ),
        (EGRESS + "callers.*.", CallerSettings, set(), set()),
        (RECONCILE, ReconcileSettings, {"state_dir"}, {"enable", "config_file", "settings"}),
        (RECONCILE + "alerts.", HookSettings, set(), set()),
        (RECONCILE + "heads.", HookSettings, set(), set()),
        (RECONCILE + "networks.*.", NetworkSettings, set(), set()),
    ],
)
def test_every_key_of_the_files_is_an_option_and_every_option_a_key(
    options: Options, prefix: str, model: type[BaseModel], without: set[str], besides: set[str]
) -> None:
    assert keys_below(options, prefix) == model.model_fields.keys() - without | besides


def test_a_key_without_an_option_would_be_seen(options: Options) -> None:
    class Newer(PeerSettings):
        auditor: str = ""

    assert keys_below(options, KEYD + "peers.") != Newer.model_fields.keys()


@pytest.mark.parametrize(
    ("prefix", "defaults", "differ"),
    [
        # Off until somebody turns it on, as everything in NixOS.
        (KEYD, X402Settings().model_dump(mode="json"), {"enable"}),
        (KEYD + "limits.", LimitSettings().model_dump(mode="json"), set()),
        # Users and groups that the module makes.
        (KEYD + "peers.", PeerSettings().model_dump(mode="json"), {"admin", "agent"}),
        (KEYD, Settings().model_dump(mode="json", include={"socket", "assets"}), set()),
        (EGRESS, EgressSettings().model_dump(mode="json", exclude={"state_dir", "x402"}), set()),
        (EGRESS, EgressSettings().x402.model_dump(mode="json"), {"enable"}),
        (RECONCILE + "alerts.", HookSettings().model_dump(mode="json"), set()),
        (RECONCILE + "heads.", HookSettings().model_dump(mode="json"), set()),
        (RECONCILE, {"keyd_socket": ReconcileSettings.model_fields["keyd_socket"].default}, set()),
        (
            RECONCILE + "networks.*.",
            NetworkSettings(network="eip155:1", rpc=["https://a.example"]).model_dump(mode="json"),
            {"network", "rpc"},
        ),
    ],
)
def test_the_defaults_are_those_of_the_daemons(
    options: Options, prefix: str, defaults: dict[str, Any], differ: set[str]
) -> None:
    ours = {snake(name.removeprefix(prefix)): option["default"] for name, option in options.items()}
    nested = {"limits"}  # rows of their own above
    found = {key for key, default in defaults.items() if key not in nested and ours[key] != default}
    assert found == differ


def keys_below(options: Options, prefix: str) -> set[str]:
    """Options right below `prefix`, as keys of the file; of groups of options, their name."""
    groups = ("peers", "limits", "alerts", "heads")
    found = set()
    for name in options:
        if name.startswith(prefix) and "*" not in (key := name.removeprefix(prefix)):
            head = key.partition(".")[0]
            found.add(head if head in groups else snake(key))
    return found


def snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)
