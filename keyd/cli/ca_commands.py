"""`keyctl ca`: egress's certificate authority in the trust store of the whole system, and out of it again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from keyd.cli import system_trust
from keyd.cli.egress_options import ca_option
from keyd.cli.program import as_called
from keyd.cli.render import escaped, listed
from keyd.cli.subprocesses import run

STORE: Final = system_trust.TrustStore()


@click.group()
def ca() -> None:
    """Egress's certificate authority, and whether the whole system trusts it.

    Whoever holds its key can pass for any https site towards every program that trusts it. `keyctl x402 run` makes
    single programs trust it, which is enough to pay.
    """


@ca.command()
@ca_option
def show(ca: Path) -> None:
    """Show the certificate: name, validity, fingerprint, and where it is trusted."""
    certificate = system_trust.read_authority(ca)
    click.echo(
        listed(
            [
                ("subject", escaped(certificate.subject.rfc4514_string())),
                ("valid until", f"{certificate.not_valid_after_utc:%Y-%m-%d}"),
                ("SHA-256", system_trust.fingerprint(certificate)),
                ("system trust", system_trust.state(certificate, STORE)),
            ]
        )
    )


@ca.command()
@ca_option
def install(ca: Path) -> None:
    """Make every program of this machine trust it that uses the system's store. As root.

    Needs Debian's or Ubuntu's update-ca-certificates. Safe to repeat.
    """
    certificate = system_trust.read_authority(ca)
    if system_trust.install(certificate, STORE, run):
        click.echo(f"the whole system trusts {system_trust.fingerprint(certificate)}")
        click.echo(as_called("running programs have to be started anew; `keyctl ca remove` takes it out"))
    else:
        click.echo("the whole system trusts it already")


@ca.command()
def remove() -> None:
    """Take out of the system's store what `install` put in, and nothing else. As root. Safe to repeat."""
    if system_trust.remove(STORE, run):
        click.echo("the system does not trust it any more; running programs may until they are started anew")
    else:
        click.echo("the system does not trust it")
