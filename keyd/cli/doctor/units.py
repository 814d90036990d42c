"""systemd: the units' state, keyd's socket, and the sealed key."""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from keyd.cli.doctor.accounts import CONNECT
from keyd.cli.doctor.files import AS_ROOT
from keyd.cli.doctor.findings import Finding, fault, good, note, skipped
from keyd.cli.subprocesses import Done, Runner

SOCKET: Final = "osmoda-keyd.socket"
_UNITS: Final = (
    SOCKET,
    "osmoda-keyd.service",
    "osmoda-egress.service",
    "osmoda-reconcile.timer",
    "osmoda-reconcile.service",
)
_PROPERTIES: Final = "Id,LoadState,ActiveState,UnitFileState,Result,NRestarts,NeedDaemonReload"

type Properties = Mapping[str, str]


def check_units(run: Runner) -> Iterator[Finding]:
    done = run(["systemctl", "show", f"--property={_PROPERTIES}", *_UNITS])
    if done is None or done.code != 0:
        yield skipped("units", "systemd does not answer here")
        return
    states = parse_units(done.out)
    findings = [finding for name in _UNITS for finding in judge_unit(name, states.get(name, {}))]
    yield from findings or [good("units", "socket and proxy are up, the reconciler's timer runs")]


def parse_units(text: str) -> dict[str, Properties]:
    """What `systemctl show` prints: a block of KEY=VALUE for each unit."""
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n")
    ]
    return {block["Id"]: block for block in blocks if "Id" in block}


def judge_unit(name: str, state: Properties) -> Iterator[Finding]:
    """What is wrong with one unit. Pure."""
    active, result = state.get("ActiveState", ""), state.get("Result", "")
    if state.get("LoadState") != "loaded":
        yield fault("units", f"{name} is not installed", "install osmoda-x402 anew; systemctl daemon-reload")
        return
    if state.get("NeedDaemonReload") == "yes":
        yield note("units", f"{name} was changed on disk", "systemctl daemon-reload, then restart it")
    if active == "failed":
        yield fault(
            "units",
            f"{name} has failed ({result})",
            f"journalctl -u {name} says why; then systemctl reset-failed {name} and start it",
        )
    elif name in (SOCKET, "osmoda-egress.service") and active not in ("active", "activating", "reloading"):
        yield fault("units", f"{name} is {active}", f"systemctl enable --now {name}")
    elif name == SOCKET and state.get("UnitFileState") == "disabled":
        yield note("units", f"{name} is not started at boot", f"systemctl enable {name}")
    elif name == "osmoda-reconcile.timer" and active != "active":
        remedy = f"list RPC servers in reconcile.toml, then systemctl enable --now {name}"
        yield note("units", "nobody asks the chain: budget of unproven payments never comes back", remedy)
    if name == "osmoda-keyd.service" and (restarts := state.get("NRestarts", "0")) != "0":
        yield note("units", f"{name} was restarted {restarts} times by systemd", f"journalctl -u {name}")


def check_socket(path: Path) -> Iterator[Finding]:
    """The kernel keeps strangers out by the socket's owner and mode."""
    try:
        status = path.stat()
    except FileNotFoundError:
        # restart: systemd takes a socket for started whose file somebody has removed
        yield fault("socket", f"{path} is missing", f"systemctl restart {SOCKET}")
        return
    except OSError as error:
        yield skipped("socket", f"{path}: {(error.strerror or 'unreadable').lower()}", AS_ROOT)
        return
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISSOCK(status.st_mode):
        yield fault("socket", f"{path} is not a socket", f"remove it, then systemctl restart {SOCKET}")
    elif mode & 0o007:
        yield note(
            "socket",
            f"{path} has mode {mode:04o}: every user may connect, and keyd itself has to refuse",
            f"SocketMode=0660 and SocketGroup={CONNECT} in {SOCKET}, then restart it",
        )
    else:
        yield good("socket", f"{path} {mode:04o} {_named(status.st_uid, status.st_gid)}")


def check_credential(path: Path, run_quietly: Runner, *, is_root: bool) -> Iterator[Finding]:
    """Can this machine still open the sealed key? The key goes nowhere."""
    if not is_root:
        yield skipped("credential", f"only root can open {path}", AS_ROOT)
        return
    if not path.exists():
        return  # reported with the files
    done = run_quietly(["systemd-creds", "decrypt", "--name=kek", str(path), "-"])
    if done is None:
        yield skipped("credential", "systemd-creds is missing or does not end")
    elif done.code == 0:
        yield good("credential", f"{path} opens on this machine")
    else:
        yield _sealed_elsewhere(path, done)


def _sealed_elsewhere(path: Path, done: Done) -> Finding:
    return fault(
        "credential",
        f"{path} does not open on this machine: {done.last_words}",
        "restore it, and /var/lib/systemd/credential.secret, from a backup of this machine; or move it and keyd's "
        "state away, make another (docs/install.md), and keyctl restore a backup or import the wallets",
    )


def _named(uid: int, gid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name}:{grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"{uid}:{gid}"
