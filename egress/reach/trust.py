"""Certificates: our own authority for intercepted connections, and whom egress trusts upstream."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import Final

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy import certs

from keyd.configfile import ConfigError

CA_CERTIFICATE: Final = "ca-cert.pem"
"""Published in state_dir for applications to trust."""
CA_FOLDER: Final = "ca"
_BASENAME: Final = "mitmproxy"  # mitmproxy looks for `mitmproxy-ca.pem` and `mitmproxy-dhparam.pem`
_KEY_BITS: Final = 2048
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, NixOS
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


def prepare_ca(state_dir: Path) -> Path:
    """Make our certificate authority on first start, reuse it later. Returns the folder of its private parts.

    The folder is 0700 and its files 0600 from their creation; `ca-cert.pem` beside it is 0644. Raises
    ConfigError if the folder cannot be used, or if others can read the key.
    """
    folder = state_dir / CA_FOLDER
    key_file = folder / f"{_BASENAME}-ca.pem"
    try:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_private(folder)
        if not key_file.exists():
            key, certificate = certs.create_ca("osmoda-x402", "osmoda-egress CA", _KEY_BITS)
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
            _create(key_file, pem + certificate.public_bytes(serialization.Encoding.PEM))
        _require_private(key_file)
        _create(folder / f"{_BASENAME}-dhparam.pem", certs.DEFAULT_DHPARAM)
        _replace(state_dir / CA_CERTIFICATE, _certificate(key_file), mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot use state_dir {state_dir}: {error.strerror}: {error.filename}",
            "make it a folder that the user of osmoda-egress owns, or set another `state_dir`",
        ) from None
    return folder


def upstream_bundle(folder: Path, extra: Path | None) -> Path:
    """The file of authorities trusted upstream: the system's, and those of `extra` if given.

    Raises ConfigError if `extra` cannot be read as PEM certificates.
    """
    system = _system_bundle()
    if extra is None:
        return system
    try:
        added = extra.read_bytes()
        x509.load_pem_x509_certificates(added)
    except OSError as error:
        raise ConfigError(
            f"cannot read upstream_ca_file {extra}: {error.strerror}", "name a readable PEM file"
        ) from None
    except ValueError:
        raise ConfigError(
            f"upstream_ca_file {extra} holds no PEM certificate", "name a file of PEM certificates"
        ) from None
    bundle = folder / "upstream-trust.pem"
    _replace(bundle, system.read_bytes() + b"\n" + added, mode=0o600)
    return bundle


def _system_bundle() -> Path:
    for candidate in (ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    return Path(certifi.where())  # a machine without a system store, a minimal container for example


def _certificate(key_file: Path) -> bytes:
    try:
        certificate = x509.load_pem_x509_certificate(key_file.read_bytes())
    except ValueError:
        raise ConfigError(
            f"{key_file} holds no certificate", "delete its folder; a new authority is made at the next start"
        ) from None
    return certificate.public_bytes(serialization.Encoding.PEM)


def _require_private(path: Path) -> None:
    if mode := path.stat().st_mode & 0o077:
        raise ConfigError(
            f"{path} is open to other users (mode bits {mode:03o})",
            "whoever could read it can read all intercepted traffic: delete the folder `ca` in state_dir; a "
            "new authority is made at the next start",
        )


def _create(path: Path, content: bytes) -> None:
    """Write a new 0600 file completely or not at all; an existing one stays, also against a racing process."""
    if path.exists():
        return
    temporary = _temporary(path.parent, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    temporary = _temporary(path.parent, content)
    temporary.chmod(mode)
    temporary.rename(path)


def _temporary(folder: Path, content: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(dir=folder)  # mkstemp creates with 0600, whatever the umask
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
