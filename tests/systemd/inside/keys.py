"""On the booted machine, as docs/custody.md says: the key is changed, the state is lost and restored, a passphrase is asked for."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/osmoda-keyd")
CONFIG = Path("/etc/osmoda/keyd.toml")
UNITS = Path("/etc/systemd/system")
PASSPHRASE = "correct horse battery"
SERVICES = ("osmoda-keyd.socket", "osmoda-keyd.service")
LIMIT_S = 300.0


def life_of_the_keys(document: Path) -> dict[str, Any]:
    """What an administrator sees who follows `document`."""
    seen: dict[str, Any] = {"before": keyctl("wallet", "list")}
    seen["kek_before"] = keyctl("wallet", "kek", "--json")
    seen["rotated"] = keyctl("wallet", "rotate-kek")
    seen["under_way"] = keyctl("wallet", "kek", "--json")
    run("systemctl", "reset-failed", *SERVICES)  # or, on a fast machine, it has been started too often
    run("systemctl", "restart", "osmoda-keyd")
    seen["kek"] = keyctl("wallet", "kek", "--json")
    seen["after_rotation"] = keyctl("wallet", "list")
    lost_and_restored(seen)
    asked_for_a_passphrase(seen, document)
    return seen


def lost_and_restored(seen: dict[str, Any]) -> None:
    passphrase, backup = private(Path("/root/passphrase"), PASSPHRASE), Path("/root/backup")
    seen["backup"] = keyctl("backup", str(backup), "--passphrase-file", str(passphrase))
    run("systemctl", "stop", *SERVICES)
    STATE.rename(f"{STATE}.before")
    run("install", "-d", "-o", "osmoda-keyd", "-g", "osmoda-keyd", "-m", "0700", str(STATE))
    run("install", "-o", "osmoda-keyd", "-m", "0400", str(backup), "/var/tmp/osmoda-backup")
    restore = (
        'osmoda-keyctl restore /var/tmp/osmoda-backup --passphrase-file "$CREDENTIALS_DIRECTORY/passphrase"'
    )
    lent = [
        "User=osmoda-keyd",
        "LoadCredentialEncrypted=kek:/etc/osmoda/kek.cred",
        f"LoadCredential=passphrase:{passphrase}",
    ]
    properties = [word for line in lent for word in ("-p", line)]
    seen["restored"] = done("systemd-run", "--pipe", "--wait", *properties, "sh", "-c", restore)
    run("systemctl", "start", "osmoda-keyd.socket")
    seen["frozen"] = keyctl("health")
    seen["after_restore"] = keyctl("wallet", "list")
    seen["unfrozen"] = keyctl("x402", "unfreeze")
    shutil.rmtree(f"{STATE}.before")


def asked_for_a_passphrase(seen: dict[str, Any], document: Path) -> None:
    """With a state and a key of its own; afterwards everything is as it was."""
    run("systemctl", "stop", *SERVICES)
    STATE.rename(f"{STATE}.before")
    configuration = CONFIG.read_text()
    CONFIG.write_text(f'kek_file = "{STATE}/kek"\n{configuration}')
    units = write_units(document)
    try:
        run("install", "-d", "-o", "osmoda-keyd", "-g", "osmoda-keyd", "-m", "0700", str(STATE))
        passphrase = private(Path("/run/passphrase"), PASSPHRASE, owner="osmoda-keyd")
        init = ["osmoda-keyctl", "init", "--passphrase-file", str(passphrase)]
        seen["init"] = done("runuser", "-u", "osmoda-keyd", "--", *init)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "osmoda-keyd.socket")
        starting = subprocess.Popen(["systemctl", "start", "osmoda-keyd"])
        seen["question"] = answer_the_question()
        seen["started"] = starting.wait(LIMIT_S)
        seen["passphrase_kek"] = keyctl("wallet", "kek", "--json")
        seen["made"] = keyctl("wallet", "create", "default")
    finally:
        run("systemctl", "stop", *SERVICES, "osmoda-ask.socket")
        for unit in units:
            unit.unlink()
        run("systemctl", "daemon-reload")
        CONFIG.write_text(configuration)
        shutil.rmtree(STATE)
        Path(f"{STATE}.before").rename(STATE)
        run("systemctl", "start", "osmoda-keyd.socket")


def write_units(document: Path) -> list[Path]:
    """Those that the document shows: indented, each under the name of its file in a comment."""
    text = "\n".join(line[4:] for line in document.read_text().splitlines() if line.startswith("    "))
    found = re.findall(r"^# (/etc/systemd/system/\S+)\n((?:(?!# /|\$ ).*\n)+)", text, re.MULTILINE)
    for name, content in found:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    return [Path(name) for name, _ in found]


def answer_the_question() -> str:
    """As an agent for passwords does it (systemd.io/PASSWORD_AGENTS); what was asked."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for question in Path("/run/systemd/ask-password").glob("ask.*"):
            fields = dict(line.split("=", 1) for line in question.read_text().splitlines() if "=" in line)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
                agent.sendto(b"+" + PASSPHRASE.encode(), fields["Socket"])
            return fields["Message"]
        time.sleep(0.1)
    return "nobody asked"


def private(path: Path, text: str, *, owner: str = "root") -> Path:
    path.write_text(text + "\n")
    path.chmod(0o400)
    shutil.chown(path, owner)
    return path


def keyctl(*arguments: str) -> dict[str, Any]:
    return done("osmoda-keyctl", *arguments)


def run(*command: str) -> None:
    result = done(*command)
    if result["code"] != 0:
        raise RuntimeError(f"{command}: {result}")


def done(*command: str) -> dict[str, Any]:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    return {"code": result.returncode, "out": result.stdout, "err": result.stderr}
