"""The files behind the environment of `keyctl x402 run`: the system's certificate authorities and egress's own.

They are public, but whoever could change them could read the traffic: the folder is the user's alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import stat
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PKCS12Certificate,
    serialize_java_truststore,
)

from keyd.cli.environment import BUNDLE_VARIABLES, TRUST_STORE_PASSWORD, TrustFiles
from keyd.cli.errors import CliError, os_fault, report

_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, NixOS, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine
)
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def prepare(ca: Path, environment: Mapping[str, str]) -> TrustFiles:
    """The files for egress's certificate `ca`, made or brought up to date. Raises CliError."""
    ours = _our_certificate(ca)
    folder = _private_folder(environment) / f"ca-{hashlib.sha256(ours[0]).hexdigest()[:16]}"
    files = TrustFiles(folder / "bundle.pem", folder / "truststore.p12", folder / "wgetrc")
    certificates = list(dict.fromkeys([*ours, *_other_authorities(environment, folder)]))
    bundle = b"\n".join([*certificates, b""])
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (files.bundle.exists() and files.bundle.read_bytes() == bundle):
            _replace(files.java_store, _java_store(certificates))
            _replace(files.wgetrc, f"ca_certificate = {files.bundle}\n".encode())
            _replace(files.bundle, bundle)  # last: if it is there and current, the others are too
    except OSError as error:
        raise os_fault(f"cannot write certificates to {folder}", error) from error
    return files


def _our_certificate(ca: Path) -> list[bytes]:
    try:
        certificates = _CERTIFICATE.findall(ca.read_bytes())
    except OSError as error:
        hint = "start osmoda-egress once, which makes it, or name its file with --ca"
        raise CliError(f"cannot read egress's certificate {ca}: {_words(error)}", hint) from error
    if not certificates or _parsed(certificates[0]) is None:
        raise CliError(
            f"{ca} holds no certificate", "it must be egress's ca-cert.pem, PEM; name its file with --ca"
        )
    return certificates


def _other_authorities(environment: Mapping[str, str], ours: Path) -> Iterable[bytes]:
    """The system's authorities, and those of each file that a variable named which now names our bundle."""
    system = system_bundle()
    if system is None:
        report("this system has no bundle of certificate authorities: only egress is trusted", kind="warning")
    named = {environment[name] for name in BUNDLE_VARIABLES if environment.get(name)}
    for path in [*([system] if system else []), *(Path(name) for name in sorted(named))]:
        if path.parent == ours:  # one run inside another
            continue
        try:
            yield from _CERTIFICATE.findall(path.read_bytes())
        except OSError as error:
            report(f"cannot read certificates of {path}: {_words(error)}", kind="warning")


def system_bundle() -> Path | None:
    """The file of authorities that this system's programs trust, if there is one."""
    compiled = ssl.get_default_verify_paths().openssl_cafile
    return next((path for path in map(Path, (*_SYSTEM_BUNDLES, compiled)) if path.is_file()), None)


def _parsed(block: bytes) -> x509.Certificate | None:
    with warnings.catch_warnings(action="ignore"):  # of old authorities with odd serial numbers
        try:
            return x509.load_pem_x509_certificate(block)
        except ValueError:
            return None


def _java_store(certificates: Iterable[bytes]) -> bytes:
    entries = [
        PKCS12Certificate(certificate, f"ca-{number}".encode())
        for number, block in enumerate(certificates)
        if (certificate := _parsed(block)) is not None
    ]
    return serialize_java_truststore(entries, BestAvailableEncryption(TRUST_STORE_PASSWORD.encode()))


def _private_folder(environment: Mapping[str, str]) -> Path:
    """$XDG_CACHE_HOME/osmoda or ~/.cache/osmoda, which nobody but this user may write to."""
    cache, home = environment.get("XDG_CACHE_HOME"), environment.get("HOME")
    if not cache and not home:
        raise CliError("there is no folder for certificates", "set HOME or XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path(home or "") / ".cache") / "osmoda"
    if not folder.is_absolute():
        raise CliError(f"{folder} is not an absolute path", "correct XDG_CACHE_HOME or HOME")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat(follow_symlinks=False)
    except OSError as error:
        raise os_fault(f"cannot make {folder}", error) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CliError(
            f"{folder} is not a folder that only you can write to",
            "whoever else can write there could make your programs trust his certificates: remove it",
        )
    return folder


def _replace(path: Path, content: bytes) -> None:
    """At once, for programs that are reading it; mkstemp makes the file 0600."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
