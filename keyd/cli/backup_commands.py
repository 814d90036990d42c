"""`keyctl backup` and `keyctl restore`: everything that keyd needs to go on elsewhere, under a passphrase."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, os_fault, report
from keyd.cli.key_sources import new_passphrase, read_line
from keyd.cli.program import as_called
from keyd.cli.render import count, escaped
from keyd.client import KeydClient
from keyd.custody.restore import Restored, RestoreError
from keyd.custody.restore import restore as put_in_place
from keyd.files import sync_directory
from keyd.setup import SetupError, key_of_this_machine
from ledger import kept
from ledger.errors import LedgerError

BACKUP_TIMEOUT_S = 3600.0  # a ledger of ten million entries is some gigabytes
_secret_file = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--passphrase-file", metavar="FILE", type=_secret_file, help="Passphrase; asked for if not given."
)
@invocation
def backup(run: Invocation, file: Path, passphrase_file: Path | None) -> None:
    """Write ledger, wallets, the key that opens them, overrides and a copy of keyd.toml to FILE, encrypted.

    keyd goes on paying meanwhile, and puts the backup on record. FILE must not exist. Whoever has FILE and
    the passphrase has the money of every wallet.
    """
    passphrase = new_passphrase("the backup", passphrase_file)
    draft = file.with_name(f".{file.name}.part")
    if file.exists():
        raise CliError(f"{file} exists", "name another file, with the date for one")
    try:
        with _private(draft) as target:
            made = run.ask(
                lambda keyd: _fetch(keyd, api.BackupMake(passphrase=passphrase), target.write),
                timeout_s=BACKUP_TIMEOUT_S,
            )
            target.flush()
            os.fsync(target.fileno())
        os.replace(draft, file)
        sync_directory(file.absolute().parent)  # keyd has dropped its own copy
    except OSError as error:
        raise os_fault(f"cannot write {file}", error) from error
    finally:
        draft.unlink(missing_ok=True)
    click.echo(f"{escaped(str(file))}: {count(made.wallets, 'wallet')}, {made.size} bytes")
    click.echo(f"ledger head {made.seq}:{made.hash}")


async def _fetch(
    keyd: KeydClient, request: api.BackupMake, write: Callable[[bytes], object]
) -> api.BackupMade:
    made, offset = await keyd.backup(request), 0
    while offset < made.size:
        part = base64.b64decode((await keyd.backup_part(made.id, offset=offset)).data, validate=True)
        if not part:
            raise CliError("keyd gave less than the whole backup", "try again")
        write(part)
        offset += len(part)
    return made


def _private(path: Path) -> BinaryIO:
    path.unlink(missing_ok=True)  # left by a run that was killed
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--passphrase-file", metavar="FILE", type=_secret_file, help="Passphrase; asked for if not given."
)
@click.option(
    "--known-head",
    metavar="HEAD",
    multiple=True,
    help="NUMBER:HASH, or a file of signed heads, kept elsewhere; a backup that is older is refused. May be repeated.",
)
@invocation
def restore(run: Invocation, file: Path, passphrase_file: Path | None, known_head: tuple[str, ...]) -> None:
    """Put a backup in place, where keyd has no wallets and no record yet. keyd must not run.

    The wallets are sealed under the key-encryption key of this machine. Payments are frozen until `keyctl x402
    unfreeze`, because what was signed after the backup is not known here. Run it as the user that keyd runs as.
    """
    settings = run.settings()
    passphrase = _passphrase(file, passphrase_file)
    try:
        known = kept.heads(known_head)
        kek = key_of_this_machine(settings, os.environ)
        with file.open("rb") as source:
            done = put_in_place(
                source, passphrase, settings, kek, known, clock=lambda: time.time_ns() // 1000
            )
    except (RestoreError, SetupError, LedgerError) as error:
        raise CliError(str(error), error.hint) from error
    except OSError as error:
        raise os_fault(f"cannot restore {file}", error) from error
    _tell(done)


def _tell(done: Restored) -> None:
    for problem in done.damaged.values():
        report(problem, "it was like that when the backup was made", kind="warning")
    click.echo(f"{count(done.wallets, 'wallet')}, ledger head {done.head.seq}:{done.head.hash.hex()}")
    if done.config is not None:
        click.echo(f"the keyd.toml of the backup: {escaped(str(done.config))}")
    click.echo(
        as_called("payments are frozen: start keyd, look at `keyctl x402 spend`, then `keyctl x402 unfreeze`")
    )


def _passphrase(file: Path, passphrase_file: Path | None) -> str:
    if passphrase_file is not None:
        return read_line(passphrase_file)
    if not sys.stdin.isatty():
        raise CliError("there is no terminal to ask for the passphrase on", "give it with --passphrase-file")
    answer: str = click.prompt(f"Passphrase of {file}", hide_input=True, err=True)
    return answer
