"""The group `keyctl wallet`, complete: each module adds its commands to it."""

from keyd.cli import kek_commands, wallet_export, wallet_show
from keyd.cli.wallet_commands import wallet

__all__ = ["kek_commands", "wallet", "wallet_export", "wallet_show"]
