"""Egress's certificate authority in the trust store of the whole system, and out of it again.

Debian's layout (update-ca-certificates(8)): one file of ours among the local authorities, named so that nobody else
has one of that name. Taking it out removes that file and nothing else.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from keyd.cli.errors import CliError, os_fault
from keyd.cli.subprocesses import Runner

OTHER_SYSTEMS: Final = (
    "this is for Debian and Ubuntu (apt-get install ca-certificates); on NixOS name the file in "
    "security.pki.certificateFiles, on Fedora copy it to /etc/pki/ca-trust/source/anchors and run update-ca-trust"
)


@dataclass(frozen=True, slots=True)
class TrustStore:
    """Where local authorities lie, and the command that makes the system's bundle of them anew."""

    anchor: Path = Path("/usr/local/share/ca-certificates/osmoda-x402.crt")
    update: Sequence[str] = ("update-ca-certificates",)


def read_authority(path: Path) -> x509.Certificate:
    """Egress's certificate. Raises CliError for what is none, or is no authority's."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except OSError as error:
        hint = "start osmoda-egress once, which makes it, or name its file with --ca"
        raise CliError(f"cannot read {path}: {(error.strerror or 'unreadable').lower()}", hint) from error
    except (ValueError, x509.ExtensionNotFound):
        is_authority = False
    if not is_authority:
        raise CliError(f"{path} holds no certificate of an authority", "it must be egress's ca-cert.pem")
    return certificate


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as browsers and openssl show it."""
    return certificate.fingerprint(SHA256()).hex(":").upper()


def state(certificate: x509.Certificate, store: TrustStore) -> str:
    """In words, whether `install` put it in."""
    there = _content(store.anchor)
    if there is None:
        return "no"
    return "yes" if there == certificate.public_bytes(Encoding.PEM) else "another one, of an earlier key"


def install(certificate: x509.Certificate, store: TrustStore, run: Runner) -> bool:
    """Makes the whole system trust it. False: it did already. Raises CliError, and then nothing is changed."""
    content = certificate.public_bytes(Encoding.PEM)
    if not store.anchor.parent.is_dir():
        raise CliError(f"there is no {store.anchor.parent}", OTHER_SYSTEMS)
    before = _content(store.anchor)
    if before == content:
        return False
    _write(store.anchor, content)
    try:
        _update(store, run)
    except CliError:
        store.anchor.unlink() if before is None else _write(store.anchor, before)
        raise
    return True


def remove(store: TrustStore, run: Runner) -> bool:
    """Takes out what `install` put in. False: there was nothing. Raises CliError, and then it is still there."""
    before = _content(store.anchor)
    if before is None:
        return False
    try:
        store.anchor.unlink()
    except OSError as error:
        raise os_fault(f"cannot remove {store.anchor}", error) from error
    try:
        _update(store, run)
    except CliError:
        _write(store.anchor, before)  # still trusted, so the next `remove` must find it
        raise
    return True


def _update(store: TrustStore, run: Runner) -> None:
    done = run(store.update)
    if done is None:
        raise CliError(f"{store.update[0]} is missing or does not end", OTHER_SYSTEMS)
    if done.code != 0:
        raise CliError(
            f"{store.update[0]} failed: {done.last_words}", f"run {' '.join(store.update)} as root"
        )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_fault(f"cannot read {path}", error) from error


def _write(path: Path, content: bytes) -> None:
    """At once, and readable for everybody whatever the umask is: it is a public certificate."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        Path(name).rename(path)
    except OSError as error:
        raise os_fault(f"cannot write {path}", error) from error
