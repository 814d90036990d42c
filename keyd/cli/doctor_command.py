"""`keyctl doctor`: looks at everything that an installation needs, and says how to mend what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.doctor import accounts, daemon, files, network, units
from keyd.cli.doctor.findings import Finding, Level, fault, good, note, report, skipped
from keyd.cli.errors import CliError
from keyd.cli.ledger_commands import entries_between
from keyd.cli.subprocesses import run as run_command
from keyd.cli.subprocesses import run_quietly
from keyd.cli.trust_files import system_bundle
from keyd.client import KeydClient
from keyd.config import Settings

CREDENTIAL: Final = Path("/etc/osmoda/kek.cred")
DEFAULT_LISTEN: Final = ("127.0.0.1", 19999)
DEFAULT_EGRESS_STATE: Final = "/var/lib/osmoda-egress"
_file = click.Path(path_type=Path, readable=False)


@dataclass(frozen=True, slots=True)
class Installation:
    """What the configuration files say; None or an empty table where one cannot be used, which is a finding."""

    folder: Path
    keyd: Settings | None
    egress: dict[str, Any]
    reconcile: dict[str, Any]

    @property
    def listen(self) -> tuple[str, int]:
        host, found, port = str(self.egress.get("listen", "")).rpartition(":")
        return (host.strip("[]"), int(port)) if found else DEFAULT_LISTEN

    @property
    def egress_state(self) -> Path:
        return Path(self.egress.get("state_dir", DEFAULT_EGRESS_STATE))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--offline", is_flag=True, help="Ask no RPC server.")
@click.option(
    "--credential", metavar="FILE", type=_file, default=CREDENTIAL, show_default=True, help="The sealed key."
)
@invocation
def doctor(run: Invocation, as_json: bool, offline: bool, credential: Path) -> int:
    """Check an installation: users, files, units, key, keyd, policy, ledger, clock, proxy, certificates, chain.

    Changes nothing. Best run as root: other users are told what they could not see. egress.toml and reconcile.toml
    are looked for beside the configuration of keyd. Exit code 0 if nothing keeps payments from being made.
    """
    findings = list(_examine(run, credential, offline=offline))
    if as_json:
        click.echo(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        click.echo(report(findings))
    return int(any(finding.level is Level.FAULT for finding in findings))


def _examine(run: Invocation, credential: Path, *, offline: bool) -> Iterator[Finding]:
    yield from accounts.check_accounts()
    written = yield from _settings(run)
    settings = written or Settings()
    folder = run.config_file.parent
    egress = yield from _table(folder / "egress.toml", "osmoda-egress")
    reconcile = yield from _table(folder / "reconcile.toml", "osmoda-reconcile")
    site = Installation(folder, written, egress, reconcile)

    setup = files.SETUP if shutil.which("osmoda-setup") else files.SETUP_BY_HAND
    yield from files.check_files(files.installation(settings, site.egress_state, folder, credential, setup))
    yield from files.check_space(settings.state_dir)
    yield from units.check_units(run_command)
    if settings.kek_file is None:
        yield from units.check_credential(credential, run_quietly, is_root=os.geteuid() == 0)
    yield from units.check_socket(Path(run.socket_option or settings.socket))
    view = None
    if written or run.socket_option:
        view = yield from _ask_keyd(run)
    else:
        yield skipped("keyd", "nobody knows where it listens as long as its configuration cannot be used")
    yield from _look_around(site, view, offline=offline)


def _settings(run: Invocation) -> Generator[Finding, None, Settings | None]:
    try:
        return run.settings()
    except CliError as error:
        yield fault("configuration", str(error), error.hint or "correct keyd.toml")
        return None


def _table(path: Path, program: str) -> Generator[Finding, None, dict[str, Any]]:
    """A configuration file of another daemon, which checks it itself; empty if it cannot be used."""
    beside = Path(sys.executable).with_name(program)
    done = run_command([str(beside), "--config", str(path), "--check"])
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        yield note(
            "configuration", f"{path} is missing", f"docs/install.md; or {program} takes another --config"
        )
        return {}
    except PermissionError:
        yield skipped("configuration", f"{path}: permission denied", files.AS_ROOT)
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        table = {}
    if done is None:
        yield skipped("configuration", f"{program} could not be run to check {path}")
        return {}
    if done.code != 0:
        what, remedy = daemon.words_of(program, done.err)
        yield fault("configuration", what or f"{path}: {done.last_words}", remedy or f"correct {path}")
        return {}
    yield good("configuration", f"{path} is sound")
    return table


def _ask_keyd(run: Invocation) -> Generator[Finding, None, api.PolicyView | None]:
    """What keyd says, as far as this user's roles go; its policy, if it could be read."""
    try:
        health = run.ask(KeydClient.health)
    except CliError as error:
        yield fault("keyd", str(error), error.hint or "journalctl -u osmoda-keyd")
        yield from daemon.check_last_words(run_command)
        yield from daemon.check_clock(_now(), None, run_command)
        return None
    yield from daemon.check_health(health, version("osmoda-x402"))
    view, last = None, None
    try:
        if {api.Role.ADMIN, api.Role.AGENT} & set(health.roles):
            view = run.ask(KeydClient.policy)
            yield from daemon.check_policy(view)
        else:
            yield skipped("policy", "keyd shows it to administrators and agents", files.AS_ROOT)
        if api.Role.ADMIN in health.roles:
            head, entries = run.ask(_tail)
            yield from daemon.check_chain(entries, head)
            last = entries[-1].ts if entries else None
        else:
            yield skipped("ledger", "keyd shows it to administrators", files.AS_ROOT)
    except CliError as error:
        yield fault(
            "ledger",
            str(error),
            "keyctl ledger verify; docs/runbook.md says what to do with a damaged ledger",
        )
    yield from daemon.check_clock(_now(), last, run_command)
    return view


async def _tail(keyd: KeydClient) -> tuple[api.LedgerHead, list[api.LedgerEntry]]:
    """The head, and the newest entries up to it."""
    head = await keyd.ledger_head()
    first = max(0, head.seq - daemon.LOOKED_AT)
    return head, [entry async for entry in entries_between(keyd, first, head.seq)]


def _look_around(site: Installation, view: api.PolicyView | None, *, offline: bool) -> Iterator[Finding]:
    yield from network.check_proxy(*site.listen)
    if site.keyd is not None:
        egress_socket = str(site.egress.get("keyd_socket", api.DEFAULT_SOCKET))
        yield from network.check_link(egress_socket, str(site.keyd.socket), site.keyd.peers.egress)
    yield from network.check_keyd_up(site.egress.get("metrics_listen"))
    fenced = site.egress.get("fence", [])
    yield from network.check_fence(fenced, run_command, is_root=os.geteuid() == 0)
    yield from network.check_ca(site.egress_state / "ca-cert.pem", system_bundle(), _now())
    servers = network.servers(site.reconcile)
    if view is not None:
        yield from network.check_networks(view.networks, servers)
    elif site.keyd is not None:
        yield from network.check_networks(site.keyd.x402.networks, servers)
    if not offline:
        yield from network.check_servers(servers, _now())


def _now() -> datetime:
    return datetime.now(UTC)
