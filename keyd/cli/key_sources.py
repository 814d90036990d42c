"""Where an imported private key comes from: a hex file, an Ethereum keystore, or a mnemonic.

No function here puts key material, a password or a part of them into an exception or on the terminal.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path

import click

from keyd.cli.errors import CliError, os_fault, report

MAX_SECRET_FILE = 64 * 1024  # a keystore is under 1 KiB; a device or a log given by mistake is not read whole
DEFAULT_DERIVATION_PATH = (
    "m/44'/60'/0'/0/0"  # BIP-44, coin 60 (Ethereum), first account: what wallets show first
)

MIN_PASSPHRASE = 12  # as `keyd.custody.scrypt` has it

_HEX_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")


def key_from_hex_file(file: Path) -> str:
    """A private key of 32 bytes in hex, with or without 0x. Returns 64 hex digits; raises CliError."""
    match = _HEX_KEY.fullmatch(read_secret(file).strip())
    if match is None:
        raise CliError(
            f"{file} does not hold a private key in hex",
            "it must hold 64 hex digits and nothing else; for a keystore in JSON use --keystore",
        )
    return match[1].lower()


def key_from_keystore(file: Path, password: str) -> str:
    """An Ethereum keystore, version 3 (Web3 Secret Storage). Returns 64 hex digits; raises CliError."""
    try:
        keystore = json.loads(read_secret(file))
    except (json.JSONDecodeError, RecursionError):
        keystore = None
    if not isinstance(keystore, dict) or keystore.get("version") != 3:
        raise CliError(
            f"{file} is not an Ethereum keystore of version 3", "a raw key in hex goes to --key-file"
        )
    from eth_account import Account  # 0.5 s and 42 MB that no other command pays for

    try:
        key = bytes(Account.decrypt(keystore, password))
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise CliError(f"the password does not open {file}") from None
        raise CliError(f"{file} is a keystore that cannot be read") from None
    except (KeyError, TypeError, AttributeError, NotImplementedError):
        raise CliError(f"{file} is a keystore that cannot be read") from None
    if len(key) != 32:
        raise CliError(f"{file} holds something else than a private key of 32 bytes")
    return key.hex()


def key_from_mnemonic_file(file: Path, derivation_path: str) -> str:
    """A BIP-39 mnemonic, English word list, no passphrase. Returns 64 hex digits; raises CliError."""
    words = " ".join(read_secret(file).split())
    from eth_account import Account  # as above
    from eth_utils.exceptions import ValidationError

    Account.enable_unaudited_hdwallet_features()
    try:
        return bytes(Account.from_mnemonic(words, account_path=derivation_path).key).hex()
    except (ValidationError, ValueError):
        raise CliError(
            f"{file} does not hold a valid mnemonic, or {derivation_path!r} is not a derivation path",
            f"12 to 24 English words on one line, and a path like {DEFAULT_DERIVATION_PATH}",
        ) from None


def read_line(file: Path) -> str:
    """A password or passphrase: the text of a file without the newline that editors put at its end."""
    return read_secret(file).removesuffix("\n").removesuffix("\r")


def new_passphrase(what: str, file: Path | None) -> str:
    """From `file`, or typed twice on the terminal, for `what`. Raises CliError; never quotes it."""
    if file is not None:
        passphrase = read_line(file)
    elif sys.stdin.isatty():
        passphrase = click.prompt(
            f"Passphrase for {what}", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        raise CliError("there is no terminal to ask for a passphrase on", "give it with --passphrase-file")
    if len(passphrase) < MIN_PASSPHRASE:
        raise CliError(
            f"a passphrase has at least {MIN_PASSPHRASE} characters",
            "whoever copies what it protects can guess without limit: six random words are good",
        )
    return passphrase


def read_secret(file: Path) -> str:
    """The text of a file that holds a secret. Warns if others may read it; raises CliError.

    The mode is taken from the open file: a check by name could look at another file than is read.
    """
    if str(file) == "-":
        return _from_standard_input()
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(MAX_SECRET_FILE + 1)
    except OSError as error:
        if _is_itself_a_secret(str(file)):
            raise CliError(
                "a key was given where the name of a file belongs",
                "the shell's history may hold it now: move its money to a new wallet, and give the file that holds the key",
            ) from None
        raise os_fault(f"cannot read {file}", error) from error
    if len(content) > MAX_SECRET_FILE:
        raise CliError(f"{file} is too large to hold a key")
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        report(
            f"{file} is open to other users of this machine ({stat.filemode(mode)})",
            f"`chmod 600 {file}`, and if anybody may have read it, move the money to a new wallet",
            kind="warning",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CliError(f"{file} is not a text file") from None


def _from_standard_input() -> str:
    """Not shown, if it is typed. Raises CliError."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Secret (not shown)", hide_input=True, err=True)
        return typed
    try:
        return sys.stdin.buffer.read(MAX_SECRET_FILE).decode("utf-8")
    except UnicodeDecodeError:
        raise CliError("standard input is not text") from None


def _is_itself_a_secret(file_name: str) -> bool:
    """Whether somebody pasted a key or a mnemonic; the error must not repeat it into logs and screenshots."""
    return _HEX_KEY.fullmatch(file_name.strip()) is not None or len(file_name.split()) >= 12
