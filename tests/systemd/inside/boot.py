"""What happens inside the booted machine: an administrator installs, a user pays, things break, probes try their luck.

Writes what it saw to FOLDER/first.json, and after the next boot to FOLDER/second.json; judging it is up to pytest.
Usage: boot.py FOLDER REPOSITORY
"""

from __future__ import annotations

import json
import pwd
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import keys
import trouble
from shell import (
    LIMIT_S,
    PROXY,
    SELLER_PORT,
    callers,
    doctor,
    done,
    journal,
    keyd_pid,
    main_pid,
    output,
    pay,
    proxy_listens,
    replace,
    restart,
    run,
    show,
    spent,
    wait_for,
    wait_for_proxy,
)

RESULTS = Path(sys.argv[1])
REPOSITORY = sys.argv[2]
HERE = Path(__file__).parent
BIN = Path("/opt/osmoda-x402/bin")
UNITS = Path("/usr/local/lib/systemd/system")
WALLET_KEY = (
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # anvil's first: worth nothing
)
SELLER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def main() -> None:
    first = RESULTS / "first.json"
    second_boot = first.exists()
    seen: dict[str, Any] = {}
    try:
        run("ip", "link", "set", "lo", "up")
        (second if second_boot else first_boot)(seen)
    except Exception:  # noqa: BLE001 - whatever it was, pytest shows it
        seen["fault"] = traceback.format_exc()
    seen["journal"] = journal("-o", "short-monotonic", "-u", "osmoda-*", "-u", "probe-*")
    target = RESULTS / "second.json" if second_boot else first
    target.write_text(json.dumps(seen))


def first_boot(seen: dict[str, Any]) -> None:
    make_users()
    seen["without_key"] = start_without_key()
    seen["setup"] = done("osmoda-setup")
    seen["setup_again"] = done("osmoda-setup")
    seen["activation"] = activation()
    configure()
    seen["setup_without_key"] = setup_without_key()
    seen["doctor"] = doctor()
    seen["doctor_of_alice"] = done(
        "runuser", "-u", "alice", "--", "osmoda-keyctl", "doctor", "--json", "--offline"
    )
    seen["trust"] = trust()
    seen["agent_reads_policy"] = done(
        "runuser", "-u", "robot", "--", "osmoda-keyctl", "x402", "policy", "--json"
    )
    seen["paid"] = pay("alice", "/item/1")
    seen["spent"] = spent()
    seen["payer"], seen["alice"] = callers(), f"uid:{pwd.getpwnam('alice').pw_uid}"
    seen["sandbox"] = sandbox()
    seen["probes"] = probes()
    seen["watchdog"] = watchdog("osmoda-keyd")
    seen["egress_status"] = egress_status()
    seen["egress_watchdog"] = watchdog("osmoda-egress", restored=proxy_listens)
    seen["paid_after_watchdog"] = pay("alice", "/item/2")
    seen["spent_before_crash"] = spent()
    seen["crash"] = crash()
    seen["spent_after_crash"] = spent()
    seen["fence"] = fence()
    seen["strangers"] = refused_peers()
    seen["reconcile"] = reconcile()
    seen["alerts"] = trouble.alerts()
    seen["another_key"] = trouble.another_key()
    seen["workers"] = two_workers()
    seen["stream"] = stop_during_a_stream()
    seen["logs"] = trouble.logs()


def second(seen: dict[str, Any]) -> None:
    seen["active"] = output("systemctl", "is-active", "osmoda-keyd.socket", "osmoda-egress").split()
    seen["spent"] = spent()
    start_seller()
    seen["paid"] = pay("alice", "/item/3")
    seen["over_budget"] = pay("alice", "/item/4")
    seen["spent_at_last"] = spent()
    seen["keys"] = keys.life_of_the_keys(Path(REPOSITORY) / "docs/custody.md")
    seen["spent_after_keys"] = spent()
    seen["ledger"] = done("osmoda-keyctl", "ledger", "verify")
    seen["package_beside"] = done("dpkg", "-i", package())
    seen["uninstall"] = done("make", "-C", REPOSITORY, "uninstall")
    seen["left"] = there(KEPT + TAKEN_AWAY)
    seen["package"] = life_of_a_package()


KEPT = [
    "/var/lib/osmoda-keyd/ledger.sqlite3",
    "/var/lib/osmoda-keyd/wallets/default.json",
    "/etc/osmoda/keyd.toml",
    "/etc/osmoda/kek.cred",
]
TAKEN_AWAY = [
    str(BIN),
    "/usr/local/bin/osmoda-keyctl",
    "/usr/local/bin/osmoda-bridge",
    str(UNITS / "../user/osmoda-bridge.service"),
    "/usr/local/bin/osmoda-fence",
    "/usr/local/bin/osmoda-egress",
    str(UNITS / "osmoda-keyd.service"),
    str(UNITS / "osmoda-fence.service"),
    "/etc/systemd/system/sockets.target.wants/osmoda-keyd.socket",
]


PACKAGED = ["/usr/lib/osmoda-x402", "/usr/bin/osmoda-keyctl", "/usr/lib/systemd/system/osmoda-keyd.service"]
CONFIGURATION = ["/etc/osmoda/keyd.toml", "/etc/osmoda/egress.toml", "/etc/osmoda/reconcile.toml"]


def life_of_a_package() -> dict[str, Any]:
    """Installed where `make install` was, set up, paid with, upgraded, removed, purged."""
    seen: dict[str, Any] = {"install": done("dpkg", "-i", package())}
    seen["before_setup"] = output("systemctl", "is-active", "osmoda-keyd.socket", "osmoda-egress").split()
    seen["setup"] = done("osmoda-setup")
    wait_for_proxy()
    seen["spent"] = spent()
    run("osmoda-keyctl", "x402", "budget", "0.01")
    seen["paid"] = pay("alice", "/item/5")
    seen["doctor"] = doctor()
    before = keyd_pid()
    seen["upgrade"] = done("dpkg", "-i", next_version())
    seen["restarted"] = keyd_pid() not in (0, before)
    wait_for_proxy()
    seen["paid_after_upgrade"] = pay("alice", "/item/6")
    seen["configuration"] = Path("/etc/osmoda/keyd.toml").read_text()
    run("osmoda-keyctl", "ca", "install")
    seen["remove"] = done("dpkg", "-r", "osmoda-x402")
    seen["trusted_after_remove"] = Path("/usr/local/share/ca-certificates/osmoda-x402.crt").exists()
    seen["left_after_remove"] = there(KEPT + CONFIGURATION + PACKAGED)
    seen["running_after_remove"] = output(
        "systemctl", "is-active", "osmoda-keyd.socket", "osmoda-egress"
    ).split()
    seen["purge"] = done("dpkg", "-P", "osmoda-x402")
    seen["left_after_purge"] = there([*KEPT, *CONFIGURATION, "/var/lib/osmoda-egress", *PACKAGED])
    return seen


def package() -> Path:
    (built,) = HERE.glob("osmoda-x402_*.deb")
    return built


def next_version() -> Path:
    """The same package with a higher version number."""
    folder, file = Path("/var/tmp/next"), Path("/var/tmp/next.deb")
    run("dpkg-deb", "-R", package(), folder)
    replace(str(folder / "DEBIAN/control"), "^Version: .*", "Version: 99.0")
    run("dpkg-deb", "--root-owner-group", "-Znone", "-b", folder, file)
    return file


def there(paths: list[str]) -> list[str]:
    """Those of `paths` that exist, dangling links included."""
    return [path for path in paths if Path(path).exists() or Path(path).is_symlink()]


# -- steps ------------------------------------------------------------------------------------------------


def make_users() -> None:
    run("useradd", "--create-home", "alice")  # an ordinary user
    run("useradd", "--groups", "osmoda,osmoda-agent", "robot")  # an AI agent's
    run("useradd", "--groups", "osmoda", "mallory")  # may connect, has no role


def start_without_key() -> str:
    """What the journal says when keyd is started before osmoda-setup has made its key."""
    run("systemctl", "start", "osmoda-keyd", check=False)
    wait_for(lambda: show("osmoda-keyd", "ActiveState") == "failed")
    said = journal("-u", "osmoda-keyd", "-o", "cat")
    run("systemctl", "stop", "osmoda-keyd.socket")
    run("systemctl", "reset-failed")
    return said


def activation() -> dict[str, str]:
    """keyd is down; a connection starts it, and the very first request is answered."""
    run("systemctl", "stop", "osmoda-egress", "osmoda-keyd")
    before = show("osmoda-keyd", "ActiveState")
    answer = done("osmoda-keyctl", "health", "--json")
    return {"before": before, "answer": answer["out"], "after": show("osmoda-keyd", "ActiveState")}


def configure() -> None:
    """A paid API on loopback, a wallet, and permission to pay just that, for the price of three items."""
    key = Path("/root/key.hex")
    key.write_text(WALLET_KEY)
    key.chmod(0o600)
    run("osmoda-keyctl", "wallet", "import", "default", "--key-file", key)
    key.unlink()
    replace(
        "/etc/osmoda/keyd.toml",
        "allowed_domains = \\[\\]",
        f'allowed_domains = ["http://127.0.0.1:{SELLER_PORT}"]',
    )
    replace("/etc/osmoda/keyd.toml", "eip155:8453", "eip155:84532")
    replace("/etc/osmoda/keyd.toml", 'daily_budget_usd = "1.00"', 'daily_budget_usd = "0.003"')
    replace("/etc/osmoda/egress.toml", "^listen", 'allow_private = ["127.0.0.1"]\nlisten')
    restart("osmoda-keyd", "osmoda-egress")
    wait_for_proxy()
    start_seller()


def trust() -> dict[str, Any]:
    """An https request of an ordinary user through the proxy, that names no certificate: before, while, and after
    the whole system trusts egress."""
    folder = Path("/run/https")
    folder.mkdir()
    run(
        *(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = Path("/etc/osmoda/egress.toml")
    as_it_was = config.read_text()
    replace(
        str(config),
        "^listen",
        f'upstream_ca_file = "{folder}/cert.pem"\nintercept = "all"\nlisten',
    )
    restart("osmoda-egress")
    wait_for_proxy()

    def curl() -> dict[str, Any]:
        url = f"https://127.0.0.1:{server.server_port}/"
        return done("runuser", "-u", "alice", "--", "curl", "-sS", "-x", PROXY, url)

    seen: dict[str, Any] = {"before": curl(), "bundle_before": BUNDLE.read_text()}
    seen["install"] = [done("osmoda-keyctl", "ca", "install") for _ in range(2)]
    seen["while"] = curl()
    seen["doctor"] = doctor()
    seen["remove"] = [done("osmoda-keyctl", "ca", "remove") for _ in range(2)]
    seen["after"], seen["bundle_after"] = curl(), BUNDLE.read_text()
    seen["journal"] = journal("-u", "osmoda-egress", "-o", "cat", "-n", "40")
    server.shutdown()
    config.write_text(as_it_was)
    restart("osmoda-egress")
    wait_for_proxy()
    return seen


def fence() -> dict[str, Any]:
    """An agent's user, before, while and after it may reach the network through egress alone."""
    free = f"http://127.0.0.1:{SELLER_PORT}/free"

    def curl(user: str, *options: str) -> int:
        return int(done("runuser", "-u", user, "--", "curl", "-sS", "-f", *options, free)["code"])

    replace("/etc/osmoda/egress.toml", "^listen", 'fence = ["robot"]\nlisten')
    seen: dict[str, Any] = {"before": curl("robot"), "start": done("systemctl", "start", "osmoda-fence")}
    seen["direct"], seen["proxy"] = curl("robot"), curl("robot", "-x", PROXY)
    seen["alice"] = curl("alice")
    seen["reload"] = done("systemctl", "reload", "osmoda-fence")
    seen["still"] = [curl("robot")]
    run("systemctl", "start", "nftables")
    restart("osmoda-fence")
    for change in (
        "reload",
        "restart",
    ):  # Debian's rules begin with `flush ruleset`; the fence follows a moment later
        for unit in ("nftables", "osmoda-fence"):  # or, on a fast machine, these are too many starts
            run("systemctl", "reset-failed", unit, check=False)
        run("systemctl", change, "nftables")
        wait_for(lambda: curl("robot") != 0 and show("osmoda-fence", "ActiveState") == "active")
        seen["still"].append(curl("robot"))
    seen["doctor"] = doctor()
    run("systemctl", "stop", "osmoda-fence")
    seen["after"] = curl("robot")
    seen["doctor_without"] = doctor()
    replace("/etc/osmoda/egress.toml", "^fence.*\n", "")
    return seen


def setup_without_key() -> dict[str, Any]:
    """osmoda-setup when the sealed key is lost and wallets are there."""
    credential = Path("/etc/osmoda/kek.cred")
    aside = credential.rename("/root/kek.cred")
    try:
        return done("osmoda-setup")
    finally:
        aside.rename(credential)


def start_seller() -> None:
    run(
        *("systemd-run", "-q", "--unit=seller", "--uid=nobody", f"--working-directory={HERE}"),
        *(BIN / "python", "-c"),
        "from aiohttp import web; from demo.seller import Books, make_app; "
        f"web.run_app(make_app(Books('{SELLER}')), host='127.0.0.1', port={SELLER_PORT})",
    )
    wait_for(lambda: done("curl", "-sf", f"http://127.0.0.1:{SELLER_PORT}/free")["code"] == 0)


def sandbox() -> dict[str, str]:
    """What the kernel says of the running keyd."""
    status = Path(f"/proc/{keyd_pid()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {
        name: fields[name].strip() for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "VmLck")
    }


def probes() -> dict[str, dict[str, str]]:
    """Every probe by everybody; `root` has no hardening at all and shows that each of them can succeed."""
    command = [str(BIN / "python"), str(HERE / "probe.py"), str(keyd_pid())]
    outcomes = {"root": json.loads(output(*command))}
    for user in ("alice", "robot", "mallory"):
        outcomes[user] = json.loads(output("runuser", "-u", user, "--", *command))
    # keyd's user without its hardening, as a second process of that user would be.
    outcomes["same user"] = json.loads(output("runuser", "-u", "osmoda-keyd", "--", *command))
    for unit in ("osmoda-keyd", "osmoda-egress", "osmoda-reconcile"):
        outcomes[unit] = under_hardening_of(unit, command)
    return outcomes


def under_hardening_of(unit: str, command: list[str]) -> dict[str, str]:
    """The outcomes of a unit that differs from `unit` in nothing but what it runs."""
    probe = f"probe-{unit}"
    drop_in = Path(f"/run/systemd/system/{probe}.service.d/probe.conf")
    drop_in.parent.mkdir(parents=True)
    (drop_in.parents[1] / f"{probe}.service").write_text((UNITS / f"{unit}.service").read_text())
    answer = RESULTS / f"{probe}.json"
    drop_in.write_text(
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        f"ExecStart={' '.join(command)}\nStandardOutput=truncate:{answer}\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "start", probe)
    outcomes: dict[str, str] = json.loads(answer.read_text())
    return outcomes


def watchdog(unit: str, restored: Callable[[], bool] = lambda: True) -> dict[str, Any]:
    """A daemon hangs; systemd notices. Seconds instead of half a minute, everything else as installed."""
    drop_in = Path(f"/run/systemd/system/{unit}.service.d/fast.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=8s\n")
    run("systemctl", "daemon-reload")
    restart(unit)
    healthy_for_s = 10.0  # longer than the limit: a daemon that reported nothing would be dead by then
    time.sleep(healthy_for_s)
    before, restarts = main_pid(unit), show(unit, "NRestarts")
    run("kill", "-STOP", str(before))
    wait_for(lambda: main_pid(unit) not in (0, before) and show(unit, "SubState") == "running")
    after = main_pid(unit)
    wait_for(restored)
    drop_in.unlink()
    run("systemctl", "daemon-reload")
    restart(unit)
    said = journal("-u", unit, "-o", "cat")
    return {"restarts_while_healthy": restarts, "before": before, "after": after, "journal": said}


def egress_status() -> dict[str, str]:
    """What `systemctl status` says of egress while keyd answers, and while it is stopped."""
    wait_for(lambda: "keyd answers" in show("osmoda-egress", "StatusText"))
    with_keyd = show("osmoda-egress", "StatusText")
    run("systemctl", "stop", "osmoda-keyd.socket", "osmoda-keyd")
    restart("osmoda-egress")  # returns when it has said READY
    accepts = str(proxy_listens())
    without = show("osmoda-egress", "StatusText")
    run("systemctl", "start", "osmoda-keyd.socket")
    wait_for(lambda: "keyd answers" in show("osmoda-egress", "StatusText"))
    return {"with": with_keyd, "without": without, "accepts": accepts}


def two_workers() -> dict[str, Any]:
    """egress as two processes under its hardening, one of them killed, and what they tell Prometheus."""
    replace("/etc/osmoda/egress.toml", "^listen", 'workers = 2\nmetrics_listen = "127.0.0.1:19998"\nlisten')
    restart("osmoda-egress")  # returns when both are ready
    status = show("osmoda-egress", "StatusText")
    main = show("osmoda-egress", "MainPID")
    victim = output("pgrep", "-P", main).split()[0]
    run("kill", "-KILL", victim)
    code = pay("alice", "/free")["code"]
    scraped: list[str] = []

    def replaced() -> bool:
        """Ready alone says nothing: that it is dead may not have been noticed yet."""
        scraped.append(output("curl", "-s", "http://127.0.0.1:19998/metrics"))
        return all(
            f"osmoda_egress_{figure}" in scraped[-1]
            for figure in ("worker_restarts_total 1.0", "workers_ready 2.0")
        )

    wait_for(replaced)
    return {
        "status": status,
        "served": code,
        "same": main == show("osmoda-egress", "MainPID"),
        "metrics": scraped[-1],
    }


def crash() -> dict[str, int]:
    before = keyd_pid()
    run("kill", "-KILL", str(before))
    wait_for(lambda: keyd_pid() not in (0, before) and show("osmoda-keyd", "SubState") == "running")
    return {"before": before, "after": keyd_pid()}


def refused_peers() -> list[str]:
    """Who is on record for asking what he may not."""
    lines = output("osmoda-keyctl", "ledger", "tail", "--json", "--limit", "1000").splitlines()
    entries = [json.loads(line) for line in lines]
    names = {f"uid:{user.pw_uid}": user.pw_name for user in pwd.getpwall()}
    return [names[entry["actor"]] for entry in entries if entry["type"] == "keyd.peer.refused"]


def reconcile() -> str:
    """What the journal says of a pass with an RPC server that does not answer."""
    replace("/etc/osmoda/reconcile.toml", "eip155:8453", "eip155:84532")
    replace("/etc/osmoda/reconcile.toml", "^rpc = .*", 'rpc = ["http://127.0.0.1:9"]')
    run("systemctl", "start", "osmoda-reconcile", check=False)
    return journal("-u", "osmoda-reconcile", "-o", "cat")


def stop_during_a_stream() -> dict[str, Any]:
    """egress is told to stop between the first and the last line of an answer."""
    stopping = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"first\n")
            stopping.wait(LIMIT_S)
            self.wfile.write(b"last\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    with subprocess.Popen(["curl", "-sSN", "-x", PROXY, url], stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        lines = [curl.stdout.readline()]
        run("systemctl", "stop", "--no-block", "osmoda-egress")
        wait_for(lambda: show("osmoda-egress", "ActiveState") == "deactivating")
        wait_for(lambda: not proxy_listens())  # systemd says so before egress has heard of it
        refused = done("curl", "-s", "-x", PROXY, url)["code"]
        stopping.set()
        lines += curl.stdout.readlines()
    server.shutdown()
    wait_for(lambda: show("osmoda-egress", "ActiveState") == "inactive")
    return {"lines": lines, "code": curl.returncode, "new_connection": refused}


main()
