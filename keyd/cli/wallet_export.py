"""`keyctl wallet export`: a key leaves keyd, encrypted, for an administrator who typed that this is meant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, os_fault
from keyd.cli.key_sources import new_passphrase
from keyd.cli.render import escaped
from keyd.cli.wallet_commands import label_argument, wallet

EXPORT_TIMEOUT_S = 60.0  # keyd takes a second for the passphrase, and exports one at a time


@wallet.command()
@label_argument
@click.option(
    "--out",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the keystore goes; it must not exist.",
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Passphrase of the keystore; asked for if not given.",
)
@invocation
def export(run: Invocation, label: str, out: Path, passphrase_file: Path | None) -> None:
    """Take a key out, as an Ethereum keystore (version 3) that a passphrase protects.

    keyd encrypts it and puts the export on record first. The wallet goes on paying here: whoever has
    keystore and passphrase can spend its money without keyd, its limits and its ledger.
    """
    if not sys.stdin.isatty():
        raise CliError(
            "an export has to be confirmed on a terminal",
            "a copy of everything for safe keeping is `keyctl backup FILE`",
        )
    click.echo(f"The key of wallet {label} is about to leave keyd, encrypted. This goes on record.", err=True)
    confirm = click.prompt("Type the label of the wallet to go on", err=True)
    if confirm != label:
        raise CliError(f"that is not {label}", "nothing was exported")
    passphrase = new_passphrase("the keystore", passphrase_file)
    descriptor = _new_file(out)  # before keyd is asked: an export that cannot be kept goes on record, too
    try:
        request = api.WalletExport(label=label, confirm=confirm, passphrase=passphrase)
        exported = run.ask(lambda keyd: keyd.wallet_export(request), timeout_s=EXPORT_TIMEOUT_S)
        with os.fdopen(descriptor, "w") as file:
            json.dump(exported.keystore, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    click.echo(f"exported wallet {label}: {escaped(exported.address)} to {escaped(str(out))}")


def _new_file(path: Path) -> int:
    """Mode 0600. Raises CliError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise os_fault(f"cannot create {path}", error) from error
