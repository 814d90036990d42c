"""Fenced users in a network namespace of their own, with real packet filter rules, the real proxy and real uids."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from egress.config import EgressSettings
from egress.reach.fence import REMOVE, resolve, ruleset
from keyd.configfile import ConfigError, load

FENCED, FREE = 61001, 61002
LISTEN = "127.0.0.1:19999"


# -- rules ------------------------------------------------------------------------------------------------


def test_names_and_uids_become_uids_and_the_unknown_are_named() -> None:
    fenced = resolve(["alice", "uid:7", "nobody-there"], {"alice": 1001}.__getitem__)
    assert fenced == (frozenset({1001, 7}), ["nobody-there"])


def test_the_rules_name_the_users_and_the_proxy() -> None:
    rules = ruleset(frozenset({1002, 1001}), "[::1]:3128")
    assert "elements = { 1001, 1002 }" in rules
    assert 'oifname "lo" ip6 daddr ::1 tcp dport 3128 accept' in rules
    assert rules.startswith(REMOVE)  # loading them again replaces them


def test_nobody_fenced_means_no_rules() -> None:
    assert ruleset(frozenset(), LISTEN) == REMOVE


@pytest.mark.parametrize("listen", ["localhost:19999", "127.0.0.1:0"])
def test_a_fence_needs_a_fixed_address(listen: str) -> None:
    with pytest.raises(ValueError, match="a fence needs"):
        ruleset(frozenset({1001}), listen)


def test_root_cannot_be_fenced_in() -> None:
    with pytest.raises(ValueError, match="root"):
        ruleset(frozenset({0}), LISTEN)


@pytest.mark.parametrize("user", ["root", "uid:0", "osmoda-egress", "@group", "a b", "1001", "x; accept"])
def test_a_configuration_with_a_user_who_cannot_be_fenced_in_is_refused(tmp_path: Path, user: str) -> None:
    config = tmp_path / "egress.toml"
    config.write_text(f'fence = ["{user}"]\n')
    with pytest.raises(ConfigError, match="fence"):
        load(EgressSettings, config)
    config.write_text('fence = ["alice", "uid:1001"]\n')
    assert load(EgressSettings, config).fence == ("alice", "uid:1001")


# -- in the kernel ----------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network namespace")


@dataclass(frozen=True)
class Net:
    """A namespace `inside`, joined to `outside`, which plays the Internet."""

    inside: str
    outside: str
    folder: Path

    def run(
        self, *command: str | Path, uid: int = 0, where: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        become = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups") if uid else ()
        return subprocess.run(
            ["ip", "netns", "exec", where or self.inside, *become, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def curl(self, uid: int, url: str, *options: str) -> str:
        """What was answered; "" for a refusal, however it came."""
        return self.run(
            "curl", "-sS", "-m", "60", "--noproxy", "" if options else "*", *options, url, uid=uid
        ).stdout

    def fence(self, command: str) -> subprocess.CompletedProcess[str]:
        fence = Path(sys.prefix, "bin", "osmoda-fence")
        return self.run(fence, "--config", self.folder / "egress.toml", command)


SERVER = textwrap.dedent("""
    import http.server, socket, socketserver, sys, threading

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")
        def log_message(self, *_): pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6
        def server_bind(self):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            self.request[1].sendto(self.request[0], self.client_address)

    class Udp(socketserver.ThreadingUDPServer):
        address_family = socket.AF_INET6

    threading.Thread(target=Udp(("::", 53), Echo).serve_forever, daemon=True).start()
    server = Server(("::", int(sys.argv[1])), Answer)
    print("ready", flush=True)
    server.serve_forever()
""")

ASK_BY_UDP = textwrap.dedent("""
    import socket, sys
    with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as question:
        question.settimeout(60)
        try:
            question.connect((sys.argv[1], 53))
            question.send(b"?")
            print(question.recv(9).decode())
        except OSError as error:
            print(type(error).__name__)
""")


@contextlib.contextmanager
def server(net: Net, where: str, port: int, uid: int = 0) -> Iterator[None]:
    become = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups") if uid else ()
    script = (
        SERVER
        if not uid
        else SERVER.replace("threading.Thread(target=Udp", "0 and threading.Thread(target=Udp")
    )
    with subprocess.Popen(
        ["ip", "netns", "exec", where, *become, "/usr/bin/python3", "-c", script, str(port)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    assert shutil.which("nft"), "apt-get install nftables"
    assert shutil.which("ip"), "apt-get install iproute2"
    name = uuid.uuid4().hex[:6]
    made = Net(f"osm-in-{name}", f"osm-out-{name}", tmp_path_factory.mktemp("fence"))
    steps = f"""
        ip netns add {made.inside}
        ip netns add {made.outside}
        ip link add v{name} netns {made.inside} type veth peer name w{name} netns {made.outside}
        ip -n {made.inside} addr add 203.0.113.2/24 dev v{name}
        ip -n {made.outside} addr add 203.0.113.1/24 dev w{name}
        ip -n {made.inside} addr add 2001:db8::2/64 dev v{name} nodad
        ip -n {made.outside} addr add 2001:db8::1/64 dev w{name} nodad
        ip -n {made.inside} link set v{name} up
        ip -n {made.outside} link set w{name} up
        ip -n {made.inside} link set lo up
        ip -n {made.outside} link set lo up
    """
    try:
        for step in steps.strip().splitlines():
            subprocess.run(step.split(), check=True, timeout=30, capture_output=True)
        with server(made, made.outside, 80), _proxy(made):
            yield made
    finally:
        for namespace in (made.inside, made.outside):
            subprocess.run(["ip", "netns", "del", namespace], check=False, timeout=30, capture_output=True)


@contextlib.contextmanager
def _proxy(net: Net) -> Iterator[None]:
    (net.folder / "egress.toml").write_text(
        f'listen = "{LISTEN}"\nkeyd_socket = "{net.folder}/none"\nstate_dir = "{net.folder}/state"\n'
        f'allow_private = ["203.0.113.1"]\nfence = ["uid:{FENCED}"]\n'
    )
    egress = Path(sys.prefix, "bin", "osmoda-egress")
    with subprocess.Popen(
        ["ip", "netns", "exec", net.inside, egress, "--config", net.folder / "egress.toml"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any("egress.ready" in line for line in process.stderr)
            yield
        finally:
            process.kill()


@pytest.fixture
def fenced(net: Net) -> Iterator[Net]:
    up = net.fence("up")
    assert (up.returncode, up.stdout) == (0, f"fenced in: uid {FENCED}\n"), up.stderr
    yield net
    assert net.fence("down").returncode == 0


DIRECT = [
    "http://203.0.113.1/",
    "http://[2001:db8::1]/",
    "http://203.0.113.2:8080/",
    "http://127.0.0.1:8080/",
]
"""Another host by both families; a neighbour's service at this machine's own address and on loopback."""


@needs_root
@pytest.mark.real
@pytest.mark.parametrize("url", DIRECT)
def test_a_fenced_user_reaches_nothing_directly_and_others_are_untouched(fenced: Net, url: str) -> None:
    with server(fenced, fenced.inside, 8080):
        assert fenced.curl(FENCED, url) == ""
        assert fenced.curl(FREE, url) == "hello"
        assert fenced.curl(0, url) == "hello"


@needs_root
@pytest.mark.real
@pytest.mark.parametrize("url", DIRECT)
def test_without_the_fence_everybody_reaches_it(net: Net, url: str) -> None:
    with server(net, net.inside, 8080):
        assert net.curl(FENCED, url) == "hello"


@needs_root
@pytest.mark.real
def test_a_fenced_user_reaches_the_network_through_egress(fenced: Net) -> None:
    for uid in (FENCED, FREE):
        assert fenced.curl(uid, "http://203.0.113.1/", "-x", f"http://{LISTEN}") == "hello"


@needs_root
@pytest.mark.real
@pytest.mark.parametrize("address", ["203.0.113.1", "2001:db8::1"])
def test_names_are_resolved_by_egress_and_by_nobody_else(fenced: Net, address: str) -> None:
    def ask(uid: int) -> str:
        return fenced.run("/usr/bin/python3", "-c", ASK_BY_UDP, address, uid=uid).stdout.strip()

    assert ask(FREE) == "?"
    assert ask(FENCED).endswith("Error")


@needs_root
@pytest.mark.real
def test_a_fenced_user_may_serve_those_who_come_to_him(fenced: Net) -> None:
    with server(fenced, fenced.inside, 8081, uid=FENCED):
        assert fenced.curl(FREE, "http://127.0.0.1:8081/") == "hello"
        assert fenced.run("curl", "-s", "http://203.0.113.2:8081/", where=fenced.outside).stdout == "hello"
        assert fenced.curl(FENCED, "http://127.0.0.1:8081/") == ""


@needs_root
@pytest.mark.real
def test_a_connection_from_before_is_cut(net: Net) -> None:
    """Whoever opened it could go on using it for days."""
    talk = textwrap.dedent("""
        import socket, sys
        with socket.create_connection(("203.0.113.1", 80), timeout=60) as connection:
            print("connected", flush=True)
            sys.stdin.readline()
            try:
                connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                print(len(connection.recv(99)))
            except OSError as error:
                print(type(error).__name__)
    """)
    for rules, answer in (("up", "ConnectionResetError"), ("down", "")):
        command = ["ip", "netns", "exec", net.inside, "setpriv", f"--reuid={FENCED}", "--clear-groups"]
        with subprocess.Popen(
            [*command, "/usr/bin/python3", "-c", talk],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "connected\n"
            net.fence(rules)
            said, _ = program.communicate("\n", timeout=60)
        net.fence("down")
        assert (said.strip() == answer) if answer else int(said) > 0


@needs_root
@pytest.mark.real
def test_loading_twice_and_removing_twice_changes_nothing_for_others(net: Net) -> None:
    other = "table inet other { chain c { type filter hook output priority 1; counter; }; }"
    subprocess.run(["ip", "netns", "exec", net.inside, "nft", other], check=True, timeout=30)
    before = net.run("nft", "list", "table", "inet", "other").stdout
    for command in ("up", "up", "down", "down"):
        assert net.fence(command).returncode == 0
    assert net.run("nft", "list", "tables").stdout == "table inet other\n"
    assert "chain c" in before
    subprocess.run(
        ["ip", "netns", "exec", net.inside, "nft", "delete table inet other"], check=True, timeout=30
    )


@needs_root
@pytest.mark.real
def test_an_unknown_user_is_an_error_and_the_others_are_fenced_in_all_the_same(net: Net) -> None:
    config = net.folder / "egress.toml"
    text = config.read_text()
    config.write_text(text.replace("fence = [", 'fence = ["no-such-user-here", '))
    try:
        up = net.fence("up")
        assert up.returncode == 1
        assert "there is no user no-such-user-here" in up.stderr
        assert net.curl(FENCED, DIRECT[0]) == ""
    finally:
        config.write_text(text)
        net.fence("down")


def test_show_prints_the_rules_and_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "egress.toml").write_text(f'fence = ["uid:{FENCED}"]\n')
    assert _command(tmp_path / "egress.toml", "show").stdout == ruleset(frozenset({FENCED}), LISTEN)


def test_a_configuration_that_cannot_be_used_is_an_error_with_a_hint(tmp_path: Path) -> None:
    for text, words in (
        ("", ""),
        ('listen = "localhost:1"\nfence = ["uid:7"]\n', "a fence needs an address"),
    ):
        (tmp_path / "egress.toml").write_text(text)
        done = _command(tmp_path / ("egress.toml" if words else "none.toml"), "up")
        assert done.returncode == 2
        assert "osmoda-fence: hint: " in done.stderr
        assert words in done.stderr


def _command(config: Path, command: str) -> subprocess.CompletedProcess[str]:
    fence = Path(sys.prefix, "bin", "osmoda-fence")
    return subprocess.run(
        [fence, "--config", config, command], capture_output=True, text=True, timeout=60, check=False
    )
