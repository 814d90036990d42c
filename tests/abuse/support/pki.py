"""The certificate authority of the sellers. egress trusts it; programs trust only egress's own."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy import certs


@dataclass(frozen=True)
class Pki:
    authority: Path
    certificate: Path

    @cache  # noqa: B019 - one for the whole run, like the fixture that holds it
    def server(self, *alpn: str) -> ssl.SSLContext:
        """What a seller shows: one certificate for 127.0.0.1 and localhost."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    @cache  # noqa: B019
    def client(self, ca_certificate: Path, *alpn: str) -> ssl.SSLContext:
        """What a program trusts: the certificate that egress publishes."""
        context = ssl.create_default_context(cafile=str(ca_certificate))
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


def make_pki(folder: Path) -> Pki:
    key, ca = certs.create_ca("sellers' test CA", "sellers' test CA", 2048)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    leaf = certs.dummy_cert(key, ca, "localhost", names)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pki = Pki(folder / "ca.pem", folder / "server.pem")
    pki.authority.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    pki.certificate.write_bytes(pem + leaf.to_pem())
    return pki
