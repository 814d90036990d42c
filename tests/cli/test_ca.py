"""`keyctl ca`: into the system's trust store and out of it, leaving alone what is not ours."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keyd.cli import ca_commands
from keyd.cli.subprocesses import Done
from keyd.cli.system_trust import TrustStore


def make_certificate(*, authority: bool = True) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mitmproxy")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    now = datetime.now(UTC)
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=9))
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


class System:
    """A trust store below `folder`, and an update-ca-certificates that a test can make fail."""

    def __init__(self, folder):
        self.anchors = folder / "ca-certificates"
        self.anchors.mkdir()
        self.store = TrustStore(self.anchors / "osmoda-x402.crt")
        self.updates = 0
        self.answer: Done | None = Done(0, "", "")

    def run(self, command):
        assert list(command) == ["update-ca-certificates"]
        self.updates += 1
        return self.answer


@pytest.fixture
def system(tmp_path, monkeypatch):
    made = System(tmp_path)
    monkeypatch.setattr(ca_commands, "STORE", made.store)
    monkeypatch.setattr(ca_commands, "run", made.run)
    return made


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "ca-cert.pem"
    path.write_bytes(make_certificate())
    return path


def test_install_puts_one_public_file_among_the_local_authorities(keyctl, system, certificate):
    result = keyctl("ca", "install", "--ca", certificate)
    assert (result.code, result.err) == (0, "")
    assert system.store.anchor.read_bytes() == certificate.read_bytes()
    assert stat.S_IMODE(system.store.anchor.stat().st_mode) == 0o644
    assert list(system.anchors.iterdir()) == [system.store.anchor]
    assert system.updates == 1


def test_a_second_install_changes_nothing(keyctl, system, certificate):
    keyctl("ca", "install", "--ca", certificate)
    again = keyctl("ca", "install", "--ca", certificate)
    assert (again.code, again.out, system.updates) == (0, "the whole system trusts it already\n", 1)


def test_a_new_authority_takes_the_place_of_the_old_one(keyctl, system, certificate):
    keyctl("ca", "install", "--ca", certificate)
    certificate.write_bytes(make_certificate())
    assert "of an earlier key" in keyctl("ca", "show", "--ca", certificate).out
    assert keyctl("ca", "install", "--ca", certificate).code == 0
    assert system.store.anchor.read_bytes() == certificate.read_bytes()


def test_only_the_certificate_is_installed_whatever_else_the_file_holds(keyctl, system, certificate):
    alone = certificate.read_bytes()
    certificate.write_bytes(alone + make_certificate())
    keyctl("ca", "install", "--ca", certificate)
    assert system.store.anchor.read_bytes() == alone


def test_remove_takes_out_what_install_put_in_and_nothing_else(keyctl, system, certificate):
    other = system.anchors / "company.crt"
    other.write_bytes(make_certificate())
    keyctl("ca", "install", "--ca", certificate)
    assert keyctl("ca", "remove").code == 0
    assert list(system.anchors.iterdir()) == [other]
    assert system.updates == 2


def test_a_remove_that_fails_can_be_repeated(keyctl, system, certificate):
    keyctl("ca", "install", "--ca", certificate)
    system.answer = Done(1, "", "read-only file system\n")
    assert keyctl("ca", "remove").code == 1
    system.answer = Done(0, "", "")
    assert keyctl("ca", "remove").code == 0
    assert list(system.anchors.iterdir()) == []


def test_removing_what_is_not_there_changes_nothing(keyctl, system):
    result = keyctl("ca", "remove")
    assert (result.code, result.out, system.updates) == (0, "the system does not trust it\n", 0)


@pytest.mark.parametrize("answer", [Done(1, "", "no hash\n"), None])
def test_an_install_that_fails_leaves_nothing_behind(keyctl, system, certificate, answer):
    system.answer = answer
    result = keyctl("ca", "install", "--ca", certificate)
    assert result.code == 1
    assert "keyctl: hint: " in result.err
    assert list(system.anchors.iterdir()) == []


def test_what_is_no_authority_is_not_trusted(keyctl, system, certificate):
    for content in (make_certificate(authority=False), b"nonsense"):
        certificate.write_bytes(content)
        result = keyctl("ca", "install", "--ca", certificate)
        assert result.code == 1
        assert "holds no certificate of an authority" in result.err
    assert list(system.anchors.iterdir()) == []


def test_a_system_without_debians_folder_is_told_where_its_own_is(keyctl, system, certificate):
    system.anchors.rmdir()
    result = keyctl("ca", "install", "--ca", certificate)
    assert result.code == 1
    assert "security.pki.certificateFiles" in result.err


def test_show_says_whether_the_system_trusts_it(keyctl, system, certificate):
    assert "system trust  no" in keyctl("ca", "show", "--ca", certificate).out
    keyctl("ca", "install", "--ca", certificate)
    assert "system trust  yes" in keyctl("ca", "show", "--ca", certificate).out


def test_a_missing_certificate_says_who_makes_it(keyctl, system, tmp_path):
    result = keyctl("ca", "show", "--ca", tmp_path / "none.pem")
    assert result.code == 1
    assert "start osmoda-egress once" in result.err
