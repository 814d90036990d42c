"""`keyctl wallet`: the wallets keyd holds. A key goes to keyd once; it comes back encrypted, by `export` alone."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, report
from keyd.cli.key_sources import (
    DEFAULT_DERIVATION_PATH,
    key_from_hex_file,
    key_from_keystore,
    key_from_mnemonic_file,
    read_line,
)
from keyd.cli.program import as_called
from keyd.cli.render import escaped, table
from keyd.client import KeydClient

_LABEL: TypeAdapter[str] = TypeAdapter(api.Label)


def _checked_label(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return _LABEL.validate_python(value)
    except ValidationError:
        raise click.BadParameter(
            "use lower-case letters, digits, dot, dash and underscore, at most 63, starting with a letter or digit"
        ) from None


label_argument = click.argument("label", callback=_checked_label)
_secret_file = click.Path(path_type=Path)


@click.group()
def wallet() -> None:
    """The wallets that pay: make, bring, look at, choose, put away, take out."""


@wallet.command()
@label_argument
@invocation
def create(run: Invocation, label: str) -> None:
    """Let keyd make a new wallet, named LABEL in policy, spending and ledger. Its key never leaves keyd, unless exported."""
    made = run.ask(lambda keyd: keyd.wallet_create(api.WalletCreate(label=label)))
    click.echo(f"created wallet {made.label}: {escaped(made.address)}")


@wallet.command("import")
@label_argument
@click.option("--key-file", metavar="FILE", type=_secret_file, help="Private key: 64 hex digits.")
@click.option("--keystore", metavar="FILE", type=_secret_file, help="Ethereum keystore, version 3 (JSON).")
@click.option(
    "--password-file",
    metavar="FILE",
    type=_secret_file,
    help="Password of the keystore; asked for if not given.",
)
@click.option("--mnemonic-file", metavar="FILE", type=_secret_file, help="BIP-39 mnemonic, English words.")
@click.option(
    "--derivation-path", metavar="PATH", help=f"For the mnemonic. Otherwise {DEFAULT_DERIVATION_PATH}."
)
@invocation
def import_wallet(
    run: Invocation,
    label: str,
    key_file: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    mnemonic_file: Path | None,
    derivation_path: str | None,
) -> None:
    """Give keyd an existing key: exactly one of --key-file, --keystore, --mnemonic-file.

    keyd keeps it encrypted. Delete the file afterwards, or keep it as the backup. A FILE of `-` is standard
    input, or what is typed on a terminal, unseen.
    """
    if sum(source is not None for source in (key_file, keystore, mnemonic_file)) != 1:
        raise click.UsageError("give exactly one of --key-file, --keystore, --mnemonic-file")
    if password_file is not None and keystore is None:
        raise click.UsageError("--password-file goes with --keystore")
    if derivation_path is not None and mnemonic_file is None:
        raise click.UsageError("--derivation-path goes with --mnemonic-file")
    if key_file is not None:
        key = key_from_hex_file(key_file)
    elif keystore is not None:
        key = key_from_keystore(keystore, _password(keystore, password_file))
    elif mnemonic_file is not None:
        key = key_from_mnemonic_file(mnemonic_file, derivation_path or DEFAULT_DERIVATION_PATH)
    request = api.WalletImport(label=label, private_key=key)
    made = run.ask(lambda keyd: keyd.wallet_import(request))
    click.echo(f"imported wallet {made.label}: {escaped(made.address)}")


def _password(keystore: Path, password_file: Path | None) -> str:
    if password_file is not None:
        return read_line(password_file)
    if not sys.stdin.isatty():
        raise CliError(
            "there is no terminal to ask for the keystore's password on", "give it with --password-file"
        )
    answer: str = click.prompt(f"Password of {keystore}", hide_input=True, err=True)
    return answer


@wallet.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON.")
@invocation
def list_wallets(run: Invocation, as_json: bool) -> None:
    """List the wallets keyd holds; the default one pays."""
    held = run.ask(KeydClient.wallet_list)
    if as_json:
        click.echo(held.model_dump_json(indent=2))
        return
    if held.wallets:
        click.echo(table(("LABEL", "ADDRESS", "CREATED", ""), [_row(entry) for entry in held.wallets]))
    elif not held.damaged:
        click.echo(as_called("no wallets yet: `keyctl wallet create LABEL` makes one"))
    for damaged in held.damaged:
        report(damaged.problem, kind="warning")


def _row(entry: api.Wallet) -> tuple[str, str, str, str]:
    created = datetime.fromtimestamp(entry.created_at, UTC).strftime("%Y-%m-%d")
    marks = [word for word, on in (("default", entry.default), ("archived", entry.archived)) if on]
    return entry.label, entry.address, created, ", ".join(marks)


@wallet.command()
@label_argument
@click.option("--even-default", is_flag=True, help="Also if it is the one that pays: nothing is paid then.")
@invocation
def archive(run: Invocation, label: str, even_default: bool) -> None:
    """Put a wallet away: from now on it signs nothing.

    Its key stays with keyd, and payments that it signed stay open until the chain has decided on them.
    """
    request = api.WalletArchive(label=label, even_default=even_default)
    put_away = run.ask(lambda keyd: keyd.wallet_archive(request))
    click.echo(f"archived wallet {put_away.label}: {escaped(put_away.address)} signs nothing")


@wallet.command()
@label_argument
@invocation
def restore(run: Invocation, label: str) -> None:
    """Let an archived wallet sign again."""
    back = run.ask(lambda keyd: keyd.wallet_restore(api.WalletRestore(label=label)))
    click.echo(f"restored wallet {back.label}: {escaped(back.address)} signs again")


@wallet.command()
@click.argument("label", required=False, callback=_checked_label)
@click.option("--as-configured", is_flag=True, help="Again the `default_wallet_label` of keyd.toml.")
@invocation
def default(run: Invocation, label: str | None, as_configured: bool) -> None:
    """Choose the wallet that pays if a request names none.

    The choice is on record and outlives restarts. keyd.toml counts as long as nobody chose.
    """
    if (label is None) is not as_configured:
        raise click.UsageError("give either a LABEL or --as-configured")
    chosen = run.ask(lambda keyd: keyd.wallet_default(api.WalletDefault(label=label)))
    click.echo(f"wallet {chosen.label} pays: {escaped(chosen.address)}")
