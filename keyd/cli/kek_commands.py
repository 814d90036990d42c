"""`keyctl wallet kek|rotate-kek`: the key-encryption key, which seals every wallet."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, os_fault
from keyd.cli.key_sources import new_passphrase
from keyd.cli.program import as_called
from keyd.cli.render import count, escaped, listed
from keyd.cli.wallet_commands import wallet
from keyd.client import KeydClient
from keyd.setup import id_of_credential

CREDENTIAL = Path("/etc/osmoda/kek.cred")
ROTATE_TIMEOUT_S = 120.0  # two writes to the disk for each wallet, and a second for a passphrase
_SOURCES = {
    "credential": "a systemd credential",
    "file": "a file in the clear (for trying out)",
    "passphrase": "a file under a passphrase",
}


@wallet.command()
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON.")
@invocation
def kek(run: Invocation, as_json: bool) -> None:
    """Show which key-encryption key seals the wallets. Its id says nothing about the key."""
    view = run.ask(KeydClient.kek)
    if as_json:
        click.echo(view.model_dump_json(indent=2))
        return
    figures = [("key", view.id), ("from", _SOURCES[view.source]), ("seals", count(view.wallets, "wallet"))]
    if view.next is not None:
        figures.append(("changing to", as_called(f"{view.next}: `keyctl wallet rotate-kek` ends it")))
    click.echo(listed(figures))


@wallet.command("rotate-kek")
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Passphrase of the new key, if it is kept under one; asked for if not given.",
)
@click.option(
    "--credential",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=CREDENTIAL,
    show_default=True,
    help="The sealed systemd credential, if the key is one.",
)
@invocation
def rotate_kek(run: Invocation, passphrase_file: Path | None, credential: Path) -> None:
    """Seal every wallet under a new key-encryption key, and forget the old one.

    Killed at any step, keyd opens every wallet at its next start, and this command can be run again. Backups
    made before open as they did; delete them if the old key was seen by somebody.
    """
    view = run.ask(KeydClient.kek)
    if view.source == "credential":
        _replace_credential(run, credential, view)
        return
    passphrase = None
    if view.source == "passphrase":
        passphrase = new_passphrase("the new key", passphrase_file)
    request = api.KekRotate(passphrase=passphrase)
    done = run.ask(lambda keyd: keyd.kek_rotate(request), timeout_s=ROTATE_TIMEOUT_S)
    click.echo(f"key {done.id} seals {count(done.wallets, 'wallet')}; the old one opens none of them")


def _replace_credential(run: Invocation, credential: Path, view: api.KekView) -> None:
    """The new key is sealed to this machine first, then keyd seals the wallets under it too, then it is put in force."""
    if os.geteuid() != 0:
        raise CliError(
            "the key-encryption key is a systemd credential, which only root can replace", "run it with sudo"
        )
    _check_credential(credential, view)
    key = secrets.token_bytes(32)
    draft = credential.with_name(credential.name + ".new")
    _seal(key, draft)
    request = api.KekRotate(new_kek=key.hex())
    done = run.ask(lambda keyd: keyd.kek_rotate(request), timeout_s=ROTATE_TIMEOUT_S)
    try:
        os.replace(draft, credential)
        _sync(credential.parent)
    except OSError as error:
        raise os_fault(f"cannot replace {credential}", error) from error
    click.echo(f"key {done.id} seals {count(done.wallets, 'wallet')}, and is in {escaped(str(credential))}")
    click.echo("`systemctl restart osmoda-keyd` puts it in force; until then the old one opens them too")


def _check_credential(credential: Path, view: api.KekView) -> None:
    """Replacing another file would lose what is in it, and change no key. Raises CliError."""
    try:
        opened = subprocess.run(
            ["systemd-creds", "decrypt", "--name=kek", str(credential), "-"],
            capture_output=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CliError(
            f"{credential} is no key that systemd-creds sealed on this machine",
            "name the right file with --credential. If another tool keeps the key, `keyctl backup`, change it there, "
            "and `keyctl restore` under the new one",
        ) from error
    if id_of_credential(opened.stdout) not in (view.id, view.next):
        raise CliError(f"{credential} holds another key than keyd's", "name the right file with --credential")


def _seal(key: bytes, draft: Path) -> None:
    """As `osmoda-setup` does it: with the TPM if there is one, else with the host's key. Raises CliError."""
    draft.unlink(missing_ok=True)  # of a run that was interrupted; no wallet depends on it alone
    try:
        subprocess.run(
            ["systemd-creds", "encrypt", "--name=kek", "-", str(draft)],
            input=key,
            check=True,
            capture_output=True,
            timeout=60,
        )
        _sync(draft)
    except (OSError, subprocess.SubprocessError) as error:
        raise CliError(
            "`systemd-creds encrypt` did not work, so nothing was changed",
            "try it: `systemd-creds encrypt --name=kek /dev/null -`",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
