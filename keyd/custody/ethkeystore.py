"""Ethereum keystores, version 3 (Web3 Secret Storage): the form in which a key may leave keyd.

ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from keyd.core.evm import keccak256
from keyd.custody import scrypt
from keyd.custody.secret import Secret


def encrypt(key: Secret, address: str, passphrase: str, entropy: Callable[[int], bytes]) -> dict[str, Any]:
    """The keystore as JSON. Takes 0.7 s and 128 MiB, as its passphrase is all that protects it."""
    salt, iv = entropy(scrypt.SALT_BYTES), entropy(16)
    derived = scrypt.derive(passphrase, salt, n=scrypt.N)
    encryptor = Cipher(AES(derived[:16]), CTR(iv)).encryptor()
    ciphertext = encryptor.update(key.reveal()) + encryptor.finalize()
    return {
        "version": 3,
        "id": str(uuid.UUID(bytes=entropy(16), version=4)),
        "address": address.removeprefix("0x").lower(),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": scrypt.N, "r": scrypt.R, "p": scrypt.P, "salt": salt.hex()},
            "mac": keccak256(derived[16:32] + ciphertext).hex(),
        },
    }
