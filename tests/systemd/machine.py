"""A throw-away machine: an overlay of this one's root, booted with a systemd of its own by systemd-nspawn.

Nothing that happens in it is left behind: what it writes goes to a tmpfs that is unmounted at the end.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

REPOSITORY: Final = Path(__file__).parents[2]
SOURCE: Final = "/var/osmoda-source"
"""The repository as the machine sees it; where it really is, the machine may have a folder of its own, as on /tmp."""
PROGRAMS: Final = "/opt/osmoda-test"
"""Copies of what runs in the machine as other users, who may not be able to read the repository."""
RESULTS: Final = "/var/osmoda-results"
HIDDEN: Final = (
    "/root",
    "/home",
    "/tmp",
    "/run/user",
)  # from services: systemd/install refuses a Python there
COPY: Final = Path("/opt/python")
PYTHON: Final = Path(COPY if sys.base_prefix.startswith(HIDDEN) else sys.base_prefix, "bin", "python3")
"""The tests' own interpreter, as the machine sees it."""
INSTALL_LIMIT_S: Final = 600
BOOT_LIMIT_S: Final = 900
"""What hangs is ended then. A boot takes two minutes, and five times as long on a machine of a fifth of the speed."""
_MOUNTS: Final = "osmoda-test-machine-"
"""Source of the mounts, before the pid of the tests that made them."""
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

_NSPAWN: Final = (
    "systemd-nspawn",
    "-q",
    f"--machine=osmoda-test-{os.getpid()}",  # two of the same name would remove each other's folders
    "--register=no",
    "--keep-unit",
    "--resolv-conf=off",
    f"--bind-ro={REPOSITORY}:{SOURCE}",
)
_BOOT: Final = (
    *("-b", "--private-network", "--console=pipe", "--capability=all"),
    # Without these three IPAddressDeny= silently does nothing, and keyrings and secret memory are refused.
    *("--system-call-filter=bpf", "--system-call-filter=@keyring", "--system-call-filter=memfd_secret"),
)
_UNWANTED: Final = ("multi-user.target.wants", "timers.target.wants", "sysinit.target.wants")
_PIP: Final = (
    "PIP_",
    "SSL_CERT",
    "REQUESTS_CA",
    "CURL_CA",
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
)

_UNIT: Final = f"""
[Unit]
Description=What the test does in this machine
After=multi-user.target
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart={PYTHON} {PROGRAMS}/boot.py {RESULTS} {SOURCE}
TimeoutStartSec={BOOT_LIMIT_S - 20}
"""


class Machine:
    """An overlay at `root`. Use `with throw_away_machine(folder) as machine`."""

    def __init__(self, root: Path, results: Path) -> None:
        self.root = root
        self.results = results

    def prepare(self) -> None:
        """Takes away the host's own services, and puts in the test's unit and a Python that services can see."""
        wants = self.root / "etc/systemd/system"
        for folder in _UNWANTED:
            shutil.rmtree(wants / folder, ignore_errors=True)
        (self.root / "etc/machine-id").write_text("")
        for name in ("var/lib/osmoda-keyd", "var/lib/osmoda-egress", "etc/osmoda", "opt/osmoda-x402"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        if PYTHON.is_relative_to(COPY):
            self._copy_python()
        programs = self.root / PROGRAMS.lstrip("/")
        shutil.copytree(Path(__file__).parent / "inside", programs)
        shutil.copytree(REPOSITORY / "demo", programs / "demo")
        _run(["chmod", "-R", "a+rX", programs], limit_s=30)
        (wants / "osmoda-test.service").write_text(_UNIT)
        target = wants / "default.target.wants"
        target.mkdir(exist_ok=True)
        (target / "osmoda-test.service").symlink_to("/etc/systemd/system/osmoda-test.service")

    def _copy_python(self) -> None:
        """This very interpreter without its tests and packages, to where services can see it."""
        unneeded = shutil.ignore_patterns("test", "site-packages", "__pycache__", "*.a")
        target = self.root / COPY.relative_to("/")
        shutil.copytree(sys.base_prefix, target, symlinks=True, ignore=unneeded)
        (target / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages").mkdir()
        (self.root / "etc/ld.so.conf.d/osmoda-test.conf").write_text(f"{COPY}/lib\n")
        _run(["ldconfig", "-r", self.root], limit_s=60)

    def run(self, *command: str) -> None:
        """A command in the machine while it is not booted, on the host's network."""
        settings = [f"--setenv={name}={value}" for name, value in os.environ.items() if name.startswith(_PIP)]
        code, said = _supervised(
            [*_NSPAWN, "--pipe", *settings, "-D", self.root, *command], limit_s=INSTALL_LIMIT_S
        )
        assert code == 0, f"{command}:\n{said[-6000:]}"

    def boot(self) -> str:
        """Boots until the test's unit is done and has switched the machine off; what the console said."""
        with _own_cgroup() as join:
            _, console = _supervised(
                [*_NSPAWN, *_BOOT, f"--bind={self.results}:{RESULTS}", "-D", self.root],
                limit_s=BOOT_LIMIT_S,
                before=join,
            )
        return console


@contextmanager
def package_in_the_making(folder: Path, **settings: str) -> Iterator[Callable[[], Path]]:
    """`make deb` with `settings`, beside whatever else the test does; what waits for it, and is the package."""
    words = [f"{name}={value}" for name, value in {"OUTPUT": str(folder), **settings}.items()]
    with (folder / "log").open("w+") as log:
        build = subprocess.Popen(
            ["make", "-C", REPOSITORY, "deb", *words], stdout=log, stderr=log, start_new_session=True
        )

        def built() -> Path:
            code = build.wait(INSTALL_LIMIT_S)
            assert code == 0, (folder / "log").read_text()[-3000:]
            (package,) = folder.glob("*.deb")
            return package

        try:
            yield built
        finally:
            if build.poll() is None:
                os.killpg(build.pid, signal.SIGTERM)
                build.wait(30)


@contextmanager
def throw_away_machine(folder: Path) -> Iterator[Machine]:
    """An overlay below `folder`, unmounted at the end. Needs root."""
    _unmount_what_dead_runs_left()
    layers, results = folder / "layers", folder / "results"
    umask = os.umask(0o022)  # the machine's root folder is made here, and its users must be able to enter it
    for path in (layers, results):
        path.mkdir()
    source, root = f"{_MOUNTS}{os.getpid()}", layers / "root"
    with _ends_as_exceptions():
        try:
            _run(["mount", "-t", "tmpfs", "-o", "size=3G,mode=0755", source, layers], limit_s=30)
            for name in ("upper", "work", "root"):
                (layers / name).mkdir()
            options = f"lowerdir=/,upperdir={layers / 'upper'},workdir={layers / 'work'}"
            _run(["mount", "-t", "overlay", source, "-o", options, root], limit_s=30)
            machine = Machine(root, results)
            machine.prepare()
            yield machine
        finally:
            _unmount(layers)
            os.umask(umask)


def _unmount_what_dead_runs_left() -> None:
    """A run that was killed could not. Its mounts lie below pytest's folder, which could not be removed either."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, place, kind, *_ = line.split()
        owner = source.removeprefix(_MOUNTS)
        if kind == "tmpfs" and owner != source and not Path("/proc", owner).exists():
            _unmount(Path(place))


def _unmount(place: Path) -> None:
    """And all below it. Lazily: what a process still holds goes when that process does."""
    subprocess.run(["umount", "-R", "-l", place], capture_output=True, timeout=30, check=False)


@contextmanager
def _ends_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP, which end Python without any `finally`, so that the machine would stay."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_cgroup() -> Iterator[Callable[[], object]]:
    """A cgroup (v2) for the machine, which otherwise would rearrange that of the tests; how a child joins it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    hierarchy = next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2")
    group = hierarchy / f"osmoda-test-{os.getpid()}"
    group.mkdir()
    try:
        yield lambda: (group / "cgroup.procs").write_text("0")
    finally:
        for child in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            child.rmdir()
        group.rmdir()


def _supervised(
    command: Sequence[str | Path], *, limit_s: float, before: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Exit code and output of an nspawn that is not left running, whatever ends the test. `before` runs in the child."""

    def in_child() -> None:
        # Even a test that is killed takes its machine along: on SIGTERM nspawn shuts it down.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        before()

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        preexec_fn=in_child,
        text=True,
        errors="replace",
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except BaseException as error:
        _switch_off(process)
        said, _ = process.communicate(timeout=30)
        if isinstance(error, subprocess.TimeoutExpired):
            raise AssertionError(f"{command} did not end:\n{said[-4000:]}") from None
        raise
    return process.returncode, said


def _switch_off(nspawn: subprocess.Popen[str]) -> None:
    """Kills the machine's init, not nspawn: that would leave the machine running, with nobody to clean up."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended by itself
        for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


def _run(command: Sequence[str | Path], *, limit_s: float) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
