"""What keyd is made of, put together from its settings. The one place that hands out randomness and the clock."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keyd.admin import Admin
from keyd.config import Settings
from keyd.custody import kek
from keyd.custody.backup import Backups
from keyd.custody.headkey import HeadKeyFile
from keyd.custody.keystore import Keystore
from keyd.custody.rotation import Rotation
from keyd.custody.wallets import Custody
from keyd.heads import Heads
from keyd.peer import Roles
from keyd.record.policies import Policies
from keyd.server import Server
from keyd.service import Service
from ledger.log import Ledger


@dataclass(frozen=True, slots=True)
class Daemon:
    """The parts that a start and a stop speak to."""

    service: Service
    admin: Admin
    rotation: Rotation
    backups: Backups
    heads: Heads
    server: Server


def assemble(
    settings: Settings,
    config_file: Path,
    source: kek.Source,
    ledger: Ledger,
    roles: Roles,
    clock: Callable[[], int],
) -> Daemon:
    """Nothing of it runs yet. `clock`: Unix time in microseconds. Raises KekError, LedgerError, OSError."""
    entropy = secrets.token_bytes
    head_key, key_is_new = (
        HeadKeyFile(settings.ledger_key_file, entropy),
        not settings.ledger_key_file.exists(),
    )
    heads = Heads(
        ledger, head_key.load_or_create(source.kek), settings.ledger_heads_file, key_is_new=key_is_new
    )
    policies = Policies(settings.policy(), limits=settings.limits(), enforce=settings.x402.enforce)
    custody = Custody(
        ledger=ledger,
        keystore=Keystore(settings.wallet_dir, source.kek, entropy),
        initial_default=settings.x402.default_wallet_label,
        entropy=entropy,
    )
    rotation = Rotation(ledger=ledger, custody=custody, source=source, entropy=entropy, head_key=head_key)
    service = Service(
        ledger=ledger,
        custody=custody,
        policies=policies,
        entropy=entropy,
        proof_sources=settings.x402.proof_sources,
    )
    overrides_file = settings.state_dir / "overrides.toml"
    admin = Admin(ledger=ledger, policies=policies, overrides_file=overrides_file, entropy=entropy)
    backups = Backups(
        ledger=ledger,
        custody=custody,
        state_dir=settings.state_dir,
        config_file=config_file,
        entropy=entropy,
    )
    server = Server(service, admin, rotation, backups, roles, clock, heads)
    return Daemon(service, admin, rotation, backups, heads, server)
