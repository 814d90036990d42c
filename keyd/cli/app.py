"""The `keyctl` program: global options, and the one place where a fault becomes words and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from keyd.cli.backup_commands import backup, restore
from keyd.cli.ca_commands import ca
from keyd.cli.context import DEFAULT_CONFIG, Invocation
from keyd.cli.doctor_command import doctor
from keyd.cli.errors import CliError, colour_wanted, os_fault, report
from keyd.cli.ledger_commands import ledger
from keyd.cli.setup_commands import check_config, health, init
from keyd.cli.wallets import wallet
from keyd.cli.x402_commands import x402

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


EXIT_CODES = (
    "Exit codes: 0 success; 1 it did not work, and `keyctl: error:` and `keyctl: hint:` on stderr say why and what to do; "
    "2 the command line is wrong; 3 nothing was changed, because an agent may only propose it: an administrator decides "
    "(`keyctl x402 pending`); 130 interrupted."
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES
)
@click.option(
    "--socket",
    metavar="PATH",
    envvar="OSMODA_KEYD_SOCKET",
    show_envvar=True,
    help="Socket of keyd. Otherwise `socket` of the configuration.",
)
@click.option(
    "--config",
    metavar="FILE",
    envvar="OSMODA_KEYD_CONFIG",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help=f"Configuration of keyd. Otherwise {DEFAULT_CONFIG}.",
)
@click.version_option(
    package_name="osmoda-x402", prog_name="keyctl", message="%(prog)s %(version)s (osmoda-x402)"
)
@click.pass_context
def cli(context: click.Context, socket: str | None, config: Path | None) -> None:
    """Set up and question keyd, the daemon that pays for x402 APIs."""
    context.obj = Invocation(socket or None, config)


for command in (init, wallet, x402, ledger, health, backup, restore, doctor, ca, check_config):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Never lets an exception through."""
    try:
        _let_any_text_through()
        result = cli.main(
            args=list(arguments), prog_name="keyctl", standalone_mode=False, color=colour_wanted()
        )
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        report(" ".join(error.format_message().split()), _usage_hint(error))  # choices come a line each
        return EXIT_USAGE
    except click.ClickException as error:
        report(error.format_message())
        return EXIT_FAULT
    except click.Abort:
        return EXIT_INTERRUPTED
    except CliError as error:
        report(str(error), error.hint)
        return EXIT_FAULT
    except OSError as error:
        fault = os_fault(str(error.filename or "input or output failed"), error)
        report(str(fault))
        return EXIT_FAULT
    except Exception as error:  # noqa: BLE001 - whatever it is, a person gets a sentence and no traceback
        return _report_bug(error)
    return result if isinstance(result, int) else 0  # an int: click's own exit code, of --help for one


def _report_bug(error: Exception) -> int:
    """Names only the type: the text of an unforeseen exception may quote what must not be printed."""
    if os.environ.get("OSMODA_DEBUG") == "1":
        sys.excepthook(type(error), error, error.__traceback__)
    report(
        f"this is a bug in keyctl: unexpected {type(error).__name__}",
        "set OSMODA_DEBUG=1 to see where, and report it",
    )
    return EXIT_FAULT


def _usage_hint(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "keyctl"
    return f"`{command} --help` shows what it takes"


def _let_any_text_through() -> None:
    """Without this a name outside the terminal's character set would end in UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
