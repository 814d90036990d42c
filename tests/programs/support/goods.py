"""The files that the shop hands out: a git repository, a wheel with its index, an npm package. All tiny."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

WHEEL = "tinypkg-1.0-py3-none-any.whl"


def make_goods(folder: Path) -> Path:
    for name in ("git", "simple", "npm"):
        (folder / name).mkdir(parents=True)
    make_repository(folder / "git/repo.git", folder / "work")
    make_wheel(folder / "simple")
    make_npm_package(folder / "npm")
    return folder


def make_repository(bare: Path, work: Path) -> None:
    """A bare repository that any web server can serve (git's "dumb" protocol)."""
    identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*arguments: str | Path) -> None:
        subprocess.run(["git", *arguments], check=True, capture_output=True, env={**os.environ, **identity})

    git("init", "-q", "-b", "main", work)
    (work / "content.txt").write_text("content\n")
    git("-C", work, "add", "content.txt")
    git("-C", work, "commit", "-q", "-m", "Content")
    git("clone", "-q", "--bare", work, bare)
    git("-C", bare, "repack", "-q", "-a", "-d")
    git("-C", bare, "update-server-info")


def make_wheel(folder: Path) -> None:
    files = {
        "tinypkg/__init__.py": "content = 'content'\n",
        "tinypkg-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0\n",
        "tinypkg-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(f"{name},{_digest(text)},{len(text)}\n" for name, text in files.items())
    files["tinypkg-1.0.dist-info/RECORD"] = record + "tinypkg-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    sha256 = hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    (folder / "index.html").write_text(
        f'<!DOCTYPE html><html><body><a href="../{WHEEL}#sha256={sha256}">{WHEEL}</a></body></html>'
    )


def make_npm_package(folder: Path) -> None:
    files = {
        "package/package.json": json.dumps({"name": "tinypkg", "version": "1.0.0", "main": "index.js"}),
        "package/index.js": "module.exports = 'content'\n",
    }
    with tarfile.open(folder / "tinypkg-1.0.0.tgz", "w:gz") as package:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            package.addfile(entry, io.BytesIO(text.encode()))


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
