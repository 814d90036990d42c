"""NixOS runs the units of systemd/, key by key; what differs is listed here."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.nix.nix import PACKAGE, ROOT, Nix, NixError

pytestmark = pytest.mark.real

Unit = dict[tuple[str, str], list[str]]
"""(section, key) → values, in the order of the file."""

ALL = """{
  services.osmoda.keyd.x402.enable = true;
  services.osmoda.egress.x402 = { enable = true; fence = [ "alice" ]; };
  services.osmoda.reconcile.x402 = {
    enable = true;
    networks = [ { network = "eip155:8453"; rpc = [ "https://rpc.example.com" ]; } ];
  };
}"""

ALLOWED = {
    # Also= is for `systemctl enable`, which NixOS does not use. SetCredential= names who makes a missing key.
    "osmoda-keyd.service": {("Install", "Also"), ("Service", "SetCredential")},
}
"""What may differ with default options. Programs are compared below the folder they are installed in."""


@pytest.fixture(scope="module")
def rendered(nix: Nix) -> dict[str, Unit]:
    units: dict[str, str] = nix.module("units", ALL)
    return {name: read(text) for name, text in units.items()}


def shipped() -> dict[str, Unit]:
    folder = ROOT / "systemd"
    files: list[Path] = [f for kind in ("service", "socket", "timer") for f in folder.glob(f"*.{kind}")]
    return {file.name: read(file.read_text().replace("@PREFIX@", str(PACKAGE))) for file in files}


def read(text: str) -> Unit:
    """systemd.syntax(7), as far as it is used: comments, sections, keys that repeat."""
    unit: Unit = defaultdict(list)
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.strip() and line[0] not in "#;":
            key, _, value = line.partition("=")
            unit[section, key].append(value)
    return dict(unit)


def differences(ours: Unit, theirs: Unit) -> set[tuple[str, str]]:
    return {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}


def test_every_shipped_unit_is_rendered(rendered: dict[str, Unit]) -> None:
    assert rendered.keys() == shipped().keys()


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_rendered_unit_is_the_shipped_one(rendered: dict[str, Unit], name: str) -> None:
    assert differences(rendered[name], shipped()[name]) == ALLOWED.get(name, set())


@pytest.mark.parametrize("name", sorted(name for name in shipped() if name.endswith(".service")))
def test_a_hardening_key_that_is_lost_or_weaker_is_seen(rendered: dict[str, Unit], name: str) -> None:
    """The comparison's own control: each key of [Service], taken away and then changed."""
    unit, found = rendered[name], ALLOWED.get(name, set())
    for key in (key for key in unit if key[0] == "Service" and key not in found):
        lost = {other: values for other, values in unit.items() if other != key}
        weaker = unit | {key: [*unit[key], "no"]}
        assert differences(lost, shipped()[name]) == differences(weaker, shipped()[name]) == found | {key}


@pytest.mark.parametrize("line", ["NoNewPrivileges yes", "User=@WHO@", "ReadOnlyPaths=/a \\", "[Service"])
def test_a_line_that_would_be_misread_ends_the_evaluation(nix: Nix, tmp_path: Path, line: str) -> None:
    unit = tmp_path / "x.service"
    read_by_nix = f'import ./nix/unit.nix {{ lib = import ./tests/nix/lib.nix; }} "/opt" {unit}'
    unit.write_text("[Service]\nUser=x\n")
    assert nix.value(read_by_nix)["serviceConfig"] == {"User": "x"}
    unit.write_text(f"[Service]\nUser=x\n{line}\n")
    with pytest.raises(NixError, match="cannot read this line"):
        nix.value(read_by_nix)


def test_keyd_keeps_what_its_key_depends_on(rendered: dict[str, Unit]) -> None:
    """Named one by one, so that a change of systemd/ cannot take them out of both at once."""
    unit = rendered["osmoda-keyd.service"]
    assert unit["Service", "PrivateNetwork"] == ["yes"]
    assert unit["Service", "RestrictAddressFamilies"] == ["AF_UNIX"]
    assert unit["Service", "User"] == ["osmoda-keyd"]
    assert unit["Service", "CapabilityBoundingSet"] == [""]
    assert unit["Service", "StateDirectoryMode"] == ["0700"]
    assert unit["Service", "SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


@pytest.mark.parametrize(
    ("settings", "unit", "changed"),
    [
        (
            'services.osmoda.keyd.x402.kekCredential.path = "/etc/other.cred";',
            "osmoda-keyd.service",
            {("Service", "LoadCredentialEncrypted"): ["kek:/etc/other.cred"]},
        ),
        (
            'services.osmoda.keyd.x402.kekCredential = { path = "/run/secrets/kek"; encrypted = false; };',
            "osmoda-keyd.service",
            {
                ("Service", "LoadCredentialEncrypted"): None,
                ("Service", "LoadCredential"): ["kek:/run/secrets/kek"],
            },
        ),
        (
            "services.osmoda.egress.x402.drainSeconds = 30;",
            "osmoda-keyd.service",
            {("Service", "SetCredential"): ["kek:missing-nixos"]},
        ),
        (
            'services.osmoda.keyd.x402.socket = "/run/x/keyd.sock";',
            "osmoda-keyd.socket",
            {("Socket", "ListenStream"): ["/run/x/keyd.sock"]},
        ),
        (
            "services.osmoda.egress.x402.drainSeconds = 90.5;",
            "osmoda-egress.service",
            {("Service", "TimeoutStopSec"): ["106s"]},
        ),
        (
            """services.osmoda.egress.x402 = {
              upstreamProxy = "http://proxy:3128"; upstreamProxyCredentialFile = "/run/secrets/proxy"; };""",
            "osmoda-egress.service",
            {("Service", "LoadCredential"): ["upstream-proxy:/run/secrets/proxy"]},
        ),
        (
            'services.osmoda.egress.x402.identify = "process";',
            "osmoda-egress.service",
            {("Service", "ProtectProc"): ["default"]},
        ),
        (
            """services.osmoda.reconcile.x402 = {
              networks = (import ./tests/nix/lib.nix).mkForce [ ]; configFile = "/run/secrets/r"; };""",
            "osmoda-reconcile.service",
            {
                ("Service", "ExecStart"): [f"{PACKAGE}/bin/osmoda-reconcile --config %d/reconcile.toml"],
                ("Service", "LoadCredential"): ["reconcile.toml:/run/secrets/r"],
            },
        ),
    ],
)
def test_an_option_changes_its_own_key_and_no_other(
    nix: Nix, settings: str, unit: str, changed: dict[tuple[str, str], list[str] | None]
) -> None:
    merged = f"(import ./tests/nix/lib.nix).mkMerge [ {ALL} {{ {settings} }} ]"
    ours = read(nix.module("units", f"{{ config = {merged}; }}")[unit])
    assert differences(ours, shipped()[unit]) == changed.keys() | ALLOWED.get(unit, set())
    assert {key: ours.get(key) for key in changed} == changed
