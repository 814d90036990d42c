"""`keyctl x402 run`: the environment it makes, the files behind it, and the program that takes its place."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from hypothesis import given
from hypothesis import strategies as st

from keyd.cli.environment import BUNDLE_VARIABLES, Proxy, TrustFiles, program_environment
from tests.loopback import refusing_port
from tests.real.support.authority import make_authority

PROXY = Proxy.parse("http://127.0.0.1:19999")
TRUST = TrustFiles(Path("/c/bundle.pem"), Path("/c/truststore.p12"), Path("/c/wgetrc"))
KEYCTL = [sys.executable, "-c", "from keyd.cli import main; main()", "x402", "run"]


def environment(before: dict[str, str] | None = None, no_proxy: str | None = None) -> dict[str, str]:
    return program_environment(before or {}, PROXY, TRUST, no_proxy, own_wgetrc=False)


# -- the environment ----------------------------------------------------------------------------------------


def test_every_proxy_variable_is_set_in_both_cases() -> None:
    found = environment()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert found[name] == found[name.lower()] == "http://127.0.0.1:19999"
    assert found["NODE_USE_ENV_PROXY"] == "1"
    assert found["npm_config_proxy"] == found["npm_config_https_proxy"] == PROXY.url


def test_every_variable_for_certificates_names_the_bundle() -> None:
    assert {environment()[name] for name in BUNDLE_VARIABLES} == {"/c/bundle.pem"}


@pytest.mark.parametrize(
    ("before", "option", "expected"),
    [
        ({}, None, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.example"}, None, "a.example"),
        ({"no_proxy": "b.example"}, None, "b.example"),
        ({"NO_PROXY": "a.example"}, "c.example", "c.example"),
        ({"NO_PROXY": "a.example"}, "", ""),
        ({"NO_PROXY": ""}, None, ""),
    ],
)
def test_what_is_reached_directly_is_what_the_user_said(
    before: dict[str, str], option: str | None, expected: str
) -> None:
    found = environment(before, option)
    assert found["NO_PROXY"] == found["no_proxy"] == found["npm_config_noproxy"] == expected


def test_java_gets_properties_after_those_it_had() -> None:
    found = environment({"JAVA_TOOL_OPTIONS": "-Xmx1g"}, "localhost,.example.com,::1")["JAVA_TOOL_OPTIONS"]
    assert found.split(" ") == [
        "-Xmx1g",
        "-Dhttp.proxyHost=127.0.0.1",
        "-Dhttp.proxyPort=19999",
        "-Dhttps.proxyHost=127.0.0.1",
        "-Dhttps.proxyPort=19999",
        "-Dhttp.nonProxyHosts=localhost|*.example.com|[::1]",
        "-Djavax.net.ssl.trustStore=/c/truststore.p12",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        "-Djavax.net.ssl.trustStorePassword=changeit",
    ]


def test_a_path_with_a_space_reaches_java_in_one_piece() -> None:
    trust = TrustFiles(Path("/a b/bundle.pem"), Path("/a b/truststore.p12"), Path("/a b/wgetrc"))
    found = program_environment({}, PROXY, trust, None, own_wgetrc=False)["JAVA_TOOL_OPTIONS"]
    assert '"-Djavax.net.ssl.trustStore=/a b/truststore.p12"' in found


def test_a_wgetrc_of_the_user_stays_in_force() -> None:
    assert environment()["WGETRC"] == "/c/wgetrc"
    assert "WGETRC" not in program_environment({}, PROXY, TRUST, None, own_wgetrc=True)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:19999",
        "https://127.0.0.1:19999",
        "socks5://127.0.0.1:1080",
        "http://127.0.0.1",
        "http://:19999",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:19999/path",
        "http://[::1:19999",
        "",
    ],
)
def test_what_is_no_proxy_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"write it as|not a URL"):
        Proxy.parse(url)


def test_a_token_goes_to_the_program_and_into_no_message() -> None:
    proxy = Proxy.parse("http://ci:secret@[::1]:19999/")
    assert proxy.url == "http://ci:secret@[::1]:19999"
    assert f"{proxy} {proxy!r}" == "http://[::1]:19999 Proxy(http://[::1]:19999)"


@given(st.text())
def test_no_text_makes_parsing_a_proxy_fail_but_in_words(text: str) -> None:
    with suppress(ValueError):
        assert 0 <= Proxy.parse(text).port < 65536


# -- the program --------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Something that listens, a certificate, and a home: all that `run` looks at."""
    make_authority(tmp_path)
    (tmp_path / "home").mkdir()
    for name in (*BUNDLE_VARIABLES, "NO_PROXY", "no_proxy", "JAVA_TOOL_OPTIONS", "WGETRC", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OSMODA_CA", str(tmp_path / "ca.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("OSMODA_PROXY", url)
        yield url


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KEYCTL, *arguments], capture_output=True, text=True, timeout=240, check=False)


def bundle(home: Path) -> Path:
    return next((home / ".cache/osmoda").glob("ca-*/bundle.pem"))


@pytest.mark.usefixtures("proxy")
def test_the_program_takes_keyctls_place_with_its_arguments_and_exit_code() -> None:
    script = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(42)"
    with subprocess.Popen(
        [*KEYCTL, "--", sys.executable, "-c", script, "--proxy", "-h", "--"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=240)
    assert output == f"{process.pid} ['--proxy', '-h', '--']\n"
    assert process.returncode == 42


def test_the_program_sees_the_environment(proxy: str, tmp_path: Path) -> None:
    done = run("env")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["https_proxy"] == proxy
    assert found["SSL_CERT_FILE"] == str(bundle(tmp_path / "home"))


@pytest.mark.usefixtures("proxy")
def test_a_program_that_writes_to_a_closed_pipe_dies_of_it_as_in_a_shell() -> None:
    process = subprocess.Popen([*KEYCTL, "yes"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == -signal.SIGPIPE


@pytest.mark.usefixtures("proxy")
def test_print_gives_a_shell_the_same_variables(tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    printed.write_text(run("--print").stdout)
    shown = subprocess.run(
        ["sh", "-c", f". {printed}; env"], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split("=")[0].removeprefix("export ") for line in printed.read_text().splitlines()]
    ran = run("env").stdout
    assert len(set(names)) == len(names) >= 25
    for name in names:
        found = [line for line in shown.splitlines() if line.startswith(f"{name}=")]
        assert found == [line for line in ran.splitlines() if line.startswith(f"{name}=")]


@pytest.mark.usefixtures("proxy")
def test_a_program_that_is_not_there_is_127_and_one_that_is_none_is_126(tmp_path: Path) -> None:
    missing = run("no-such-program-anywhere")
    assert (missing.returncode, missing.stdout) == (127, "")
    assert missing.stderr == (
        "keyctl: error: there is no program 'no-such-program-anywhere'\n"
        "keyctl: hint: check its spelling and PATH\n"
    )
    (tmp_path / "data").write_text("no program")
    plain = run(str(tmp_path / "data"))
    assert plain.returncode == 126
    assert "permission denied" in plain.stderr


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("arguments", [[], ["--print", "ls"], ["--proxy", "ftp://x", "ls"]])
def test_a_command_line_that_cannot_be_meant_is_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


def test_without_a_proxy_nothing_is_run_and_no_token_is_shown(proxy: str, tmp_path: Path) -> None:
    with refusing_port() as port:
        done = run("--proxy", f"http://ci:secret@127.0.0.1:{port}", "touch", str(tmp_path / "ran"))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"keyctl: error: no proxy listens on http://127.0.0.1:{port}: connection refused\n"
    )
    assert "secret" not in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("proxy")
def test_without_egresss_certificate_nothing_is_run(tmp_path: Path) -> None:
    missing = run("--ca", str(tmp_path / "none.pem"), "true")
    assert missing.returncode == 1
    assert "none.pem: no such file or directory\nkeyctl: hint: start osmoda-egress once" in missing.stderr
    (tmp_path / "other.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "holds no certificate" in run("--ca", str(tmp_path / "other.pem"), "true").stderr


# -- the files ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("proxy")
def test_bundle_and_java_store_hold_the_systems_authorities_and_ours(tmp_path: Path) -> None:
    assert run("true").returncode == 0
    pem = bundle(tmp_path / "home")
    ours = (tmp_path / "ca.pem").read_bytes().strip()
    blocks = pem.read_bytes().split(b"-----END CERTIFICATE-----\n")[:-1]
    assert blocks[0] + b"-----END CERTIFICATE-----" == ours
    store = load_pkcs12((pem.parent / "truststore.p12").read_bytes(), b"changeit")
    assert len(store.additional_certs) == len(blocks) > 1
    assert x509.load_pem_x509_certificate(ours) in [entry.certificate for entry in store.additional_certs]
    assert (pem.parent / "wgetrc").read_text() == f"ca_certificate = {pem}\n"


@pytest.mark.usefixtures("proxy")
def test_the_files_are_the_users_alone(tmp_path: Path) -> None:
    subprocess.run([*KEYCTL, "true"], check=True, umask=0)
    folder = bundle(tmp_path / "home").parent
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.usefixtures("proxy")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "home/.cache/osmoda"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    done = run("true")
    assert done.returncode == 1
    assert "is not a folder that only you can write to" in done.stderr


@pytest.mark.usefixtures("proxy")
def test_another_certificate_makes_other_files_and_the_same_one_leaves_them(tmp_path: Path) -> None:
    run("true")
    first = bundle(tmp_path / "home")
    before = {path: path.stat().st_mtime_ns for path in first.parent.iterdir()}
    run("true")
    assert {path: path.stat().st_mtime_ns for path in first.parent.iterdir()} == before
    make_authority(tmp_path)
    run("true")
    folders = list((tmp_path / "home/.cache/osmoda").iterdir())
    assert len(folders) == 2
    assert {path: path.stat().st_mtime_ns for path in first.parent.iterdir()} == before


@pytest.mark.usefixtures("proxy")
def test_an_authority_that_the_user_trusted_for_one_program_stays_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "company").mkdir()
    company = make_authority(tmp_path / "company").ca
    monkeypatch.setenv("GIT_SSL_CAINFO", str(company))
    run("true")
    pem = bundle(tmp_path / "home")
    assert company.read_bytes() in pem.read_bytes()
    monkeypatch.delenv("GIT_SSL_CAINFO")
    run("true")
    assert company.read_bytes() not in pem.read_bytes()


@pytest.mark.usefixtures("proxy")
def test_a_run_inside_a_run_changes_nothing(tmp_path: Path) -> None:
    run("true")
    before = bundle(tmp_path / "home").read_bytes()
    assert run(*KEYCTL, "true").returncode == 0
    assert bundle(tmp_path / "home").read_bytes() == before


@pytest.mark.usefixtures("proxy")
def test_without_a_home_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert "keyctl: hint: set HOME or XDG_CACHE_HOME" in run("true").stderr
