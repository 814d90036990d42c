"""The units as files: systemd accepts them, finds them hardened, and every remaining point is explained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from bridge.__main__ import main as bridge
from egress.config import EgressSettings
from keyd import config
from keyd.configfile import load
from reconcile.config import ReconcileSettings

SHIPPED = Path(__file__).parents[2] / "systemd"
UNITS = sorted(path.name for path in SHIPPED.glob("osmoda-*.*"))
THRESHOLDS = {
    "osmoda-keyd.service": 6,
    "osmoda-egress.service": 16,
    "osmoda-reconcile.service": 16,
    "osmoda-fence.service": 16,
}
"""Tenths of systemd's exposure level, which goes from 0 to 10."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as `make install` writes them, with programs that exist."""
    for name in ("osmoda-keyd", "osmoda-egress", "osmoda-reconcile", "osmoda-bridge", "osmoda-fence"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in UNITS:
        (tmp_path / name).write_text((SHIPPED / name).read_text().replace("@PREFIX@", str(tmp_path)))
    return tmp_path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "apt-get install systemd"
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    # Without recursive-errors=no, unknown keys are warnings, and the exit code is 0.
    return analyze("verify", "--man=no", "--recursive-errors=no", unit)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(installed: Path, name: str) -> None:
    done = verify(installed / name)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_refuses_the_unit_with_a_key_that_it_does_not_know(installed: Path, name: str) -> None:
    unit = installed / name
    unit.write_text(unit.read_text().replace("Description=", "NoSuchKey=1\nDescription=", 1))
    assert "NoSuchKey" in verify(unit).stderr
    assert verify(unit).returncode != 0


@pytest.mark.parametrize(("name", "threshold"), THRESHOLDS.items())
def test_exposure_is_within_its_limit(installed: Path, name: str, threshold: int) -> None:
    done = analyze("security", "--offline=true", f"--threshold={threshold}", installed / name)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "threshold"), THRESHOLDS.items())
def test_exposure_without_the_kernel_section_is_beyond_its_limit(
    installed: Path, name: str, threshold: int
) -> None:
    unit = installed / name
    unit.write_text(
        re.sub(r"^(CapabilityBoundingSet|SystemCallFilter)=.*\n", "", unit.read_text(), flags=re.M)
    )
    assert analyze("security", "--offline=true", f"--threshold={threshold}", unit).returncode != 0


@pytest.mark.parametrize("name", THRESHOLDS)
def test_every_remaining_point_is_explained_beside_its_line(installed: Path, name: str) -> None:
    done = analyze("security", "--offline=true", "--json=short", installed / name)
    remaining = [Decimal(item["exposure"]) for item in json.loads(done.stdout) if item["exposure"]]
    explained = re.findall(r"Remains (\d\.\d): ", (installed / name).read_text())
    assert sum(remaining) == sum(map(Decimal, explained))
    assert len(explained) >= 4


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_exposure_in_the_first_line_is_what_systemd_says(installed: Path, name: str) -> None:
    done = analyze("security", "--offline=true", installed / name)
    found = re.search(r"exposure level for \S+: (\d\.\d)", done.stdout)
    assert found is not None
    assert (
        f"(`systemd-analyze security`): {found[1]} of 10." in (installed / name).read_text().splitlines()[0]
    )


def test_the_users_own_unit_is_accepted_and_starts_what_there_is(
    installed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    text = (SHIPPED / "user/osmoda-bridge.service").read_text().replace("@PREFIX@", str(installed))
    unit = installed / "osmoda-bridge.service"
    unit.write_text(text)
    done = analyze("verify", "--user", "--man=no", "--recursive-errors=no", unit)
    assert done.returncode == 0, done.stderr
    [command] = re.findall(r"^ExecStart=\S+/bin/osmoda-bridge (.*)$", text, re.MULTILINE)
    assert bridge.make_context("osmoda-bridge", command.split()).params["http"] == ("127.0.0.1", 18402)
    unit.write_text(text.replace("ExecStart=", "ExecStart=/nowhere"))
    assert analyze("verify", "--user", "--man=no", "--recursive-errors=no", unit).returncode != 0


@pytest.mark.parametrize("name", THRESHOLDS)
def test_peers_stay_visible(installed: Path, name: str) -> None:
    """A user namespace would make SO_PEERCRED say 65534 for nearly everybody; roles go by uid."""
    assert "\nPrivateUsers=no\n" in (installed / name).read_text()


def test_the_sample_of_keyd_allows_no_payment() -> None:
    settings = config.load(SHIPPED / "keyd.toml")
    assert settings.x402.allowed_domains == []
    assert settings.kek_file is None  # the key comes from systemd


def test_the_other_samples_are_valid_and_meet_on_the_same_socket() -> None:
    keyd = config.load(SHIPPED / "keyd.toml")
    egress = load(EgressSettings, SHIPPED / "egress.toml")
    reconcile = load(ReconcileSettings, SHIPPED / "reconcile.toml")
    assert {egress.keyd_socket, reconcile.keyd_socket} == {str(keyd.socket)}
    assert f"\nListenStream={keyd.socket}\n" in (SHIPPED / "osmoda-keyd.socket").read_text()
    assert [network.network for network in reconcile.networks] == keyd.x402.networks


@pytest.mark.parametrize("name", sorted(set(UNITS) - {"osmoda-keyd.service"}))
def test_a_stopped_keyd_stays_stopped(installed: Path, name: str) -> None:
    """Only keyd itself pulls its socket in; stopping it is a way to stop all payments."""
    pulled_in = re.findall(
        r"^(?:Wants|Requires|BindsTo|Upholds)=(.*)", (installed / name).read_text(), flags=re.M
    )
    assert "keyd" not in " ".join(pulled_in)


# -- scripts ----------------------------------------------------------------------------------------------


def script(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHIPPED / name],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **variables},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("prefix", ["/root/x", "/home/a/x", "/tmp/x", "/opt/../root/x"])
def test_install_refuses_a_prefix_that_the_services_cannot_read(tmp_path: Path, prefix: str) -> None:
    done = script("install", PREFIX=prefix, DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert "where the services cannot read" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_install_refuses_a_folder_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    precious = tmp_path / "opt" / "shared" / "precious"
    precious.mkdir(parents=True)
    done = script("install", PREFIX="/opt/shared", DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert "is not an installation of osmoda-x402" in done.stderr
    assert precious.exists()


def test_install_refuses_another_virtual_environment(tmp_path: Path) -> None:
    other = tmp_path / "opt" / "other" / "pyvenv.cfg"
    other.parent.mkdir(parents=True)
    other.touch()
    assert script("install", PREFIX="/opt/other/", DESTDIR=str(tmp_path)).returncode == 1
    assert other.exists()


def test_install_refuses_a_python_that_is_none(tmp_path: Path) -> None:
    done = script("install", DESTDIR=str(tmp_path), SYSTEM_PYTHON="/bin/false")
    assert done.returncode == 1
    assert "error: /bin/false is not a Python >= 3.12" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_install_refuses_a_python_in_a_home_folder(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *base_prefix*) echo /root/python ;; esac\n')
    python.chmod(0o755)
    done = script("install", DESTDIR=str(tmp_path / "staged"), SYSTEM_PYTHON=str(python))
    assert done.returncode == 1
    assert "SYSTEM_PYTHON is /root/python, where the services cannot read" in done.stderr
    assert not (tmp_path / "staged").exists()


def test_uninstall_takes_away_nothing_that_install_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "opt" / "shared" / "precious"
    precious.mkdir(parents=True)
    done = script("uninstall", PREFIX="/opt/shared", DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert "there is no osmoda-x402" in done.stderr
    assert precious.exists()


@pytest.mark.parametrize("name", ["uninstall", "deb/prerm"])
def test_removing_stops_every_unit_that_is_shipped(name: str) -> None:
    """One that is left would go on with programs that are gone."""
    lines = re.search(r"^units=[(\"](.*)[)\"]$", (SHIPPED / name).read_text(), flags=re.M)
    assert lines is not None
    assert set(lines[1].split()) == set(UNITS)


@pytest.mark.parametrize("name", ["preinst", "postinst", "prerm", "postrm"])
def test_a_maintainer_script_is_one_for_any_shell_and_stops_at_the_first_fault(name: str) -> None:
    file = SHIPPED / "deb" / name
    assert file.read_text().startswith("#!/bin/sh\nset -e\n")
    assert subprocess.run(["sh", "-n", file], capture_output=True, timeout=30, check=False).returncode == 0


def test_the_package_asks_for_a_python_that_is_new_enough(tmp_path: Path) -> None:
    done = script("deb/build", SYSTEM_PYTHON="/bin/false", OUTPUT=str(tmp_path))
    assert done.returncode == 1
    assert "error: /bin/false is not a Python >= 3.12" in done.stderr
    assert list(tmp_path.iterdir()) == []
