"""Everything that touches key material: wallets, the key that seals them, backups and their way back."""
