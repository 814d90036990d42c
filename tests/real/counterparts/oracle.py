"""What the official SDK says: answers the JSON question on standard input with JSON on standard output.

{"assets": null}              → its default assets on EVM networks
{"digests": [authorization]}  → the EIP-712 digest of each, in hex
"""

import json
import sys
from typing import Any

from x402.mechanisms.evm.default_assets import DEFAULT_ASSETS
from x402.mechanisms.evm.eip712 import hash_eip3009_authorization
from x402.mechanisms.evm.types import ExactEIP3009Authorization


def digest(question: dict[str, Any]) -> str:
    fields = question["authorization"]
    authorization = ExactEIP3009Authorization(
        from_address=fields["from"],
        to=fields["to"],
        value=fields["value"],
        valid_after=fields["validAfter"],
        valid_before=fields["validBefore"],
        nonce=fields["nonce"],
    )
    return hash_eip3009_authorization(
        authorization, question["chain_id"], question["token"], question["name"], question["version"]
    ).hex()


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    answer: Any = [digest(each) for each in asked["digests"]] if "digests" in asked else DEFAULT_ASSETS
    json.dump(answer, sys.stdout, default=vars)
