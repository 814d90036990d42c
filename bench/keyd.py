"""keyd: decide, record durably, sign, over its socket; how soon it is there; what it takes of memory."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator

from bench.harness import Comparison, Contender, Peer, Stage, at_least, at_most
from bench.process import Worker, resident_mb
from bench.signing import NETWORK, SELLER, USDC, ManyClients, OneClient, sign_requests
from bench.stack import SDK_PYTHON, keyd_with_wallet, sdk, sdk_versions, start_and_stop
from demo.stack import Keyd
from keyd.core.assets import DEFAULT_ASSETS
from keyd.core.eip3009 import authorize, digest
from keyd.custody.keystore import Payer
from keyd.custody.secret import Secret

SIGNATURES = 300
"""In a round: about a second for one client, with an fsync for each."""
BURST = 2000
"""In a round of many clients."""
CLIENTS = 32
SDK_IMPORT = """
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner
print(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
"""
"""What a program imports to pay with the official SDK; prints its resident memory in kB."""
versions = sdk_versions


def comparisons(stage: Stage) -> Iterator[Comparison]:
    with sdk() as peer, keyd_with_wallet(stage.folder / "keyd") as keyd:
        yield from _signatures(keyd, peer)
        yield from _memory_in_use(keyd)
    yield from _start(keyd)


def _signatures(keyd: Keyd, peer: Worker) -> Iterator[Comparison]:
    requests = sign_requests()
    one, many = OneClient(keyd.socket, requests), ManyClients(keyd.socket, requests, CLIENTS)
    yield Comparison(
        "decide, fsync and sign, 1 client",
        "ms",
        Contender("keyd over its socket", lambda: one.latencies_ms(SIGNATURES)),
        [
            Peer(Contender("eth_account signs alone", lambda: peer.figures({"sign": SIGNATURES}))),
            Peer(Contender("SDK makes the payload alone", lambda: peer.figures({"payload": SIGNATURES}))),
        ],
        target=at_most(5),
    )
    one.close()
    eth_account = Contender("eth_account and coincurve sign alone", lambda: [_rate(peer)])
    yield Comparison(
        f"decide, fsync and sign, {CLIENTS} clients",
        "signatures/s",
        Contender("keyd over its socket", lambda: [many.per_second(BURST)]),
        [Peer(eth_account, at_least(3))],
        more_is_better=True,
    )
    yield Comparison(
        "sign alone, one core",
        "signatures/s",
        Contender("keyd's EIP-712 and signer", lambda: [_bare_rate()]),
        [Peer(eth_account, at_least(3))],
        more_is_better=True,
    )


def _rate(peer: Worker) -> float:
    taken_ms = peer.figures({"sign": BURST})
    return len(taken_ms) / (sum(taken_ms) / 1e3)


def _bare_rate() -> float:
    """What keyd does where eth_account has `sign_typed_data`: the authorization, its digest, the signature."""
    (asset,) = (a for a in DEFAULT_ASSETS if (a.network, a.address) == (NETWORK, USDC))
    payer = Payer("bench", Secret(secrets.token_bytes(32)))
    began = time.perf_counter()
    for _ in range(BURST):
        authorization = authorize(
            payer=payer.address,
            pay_to=SELLER,
            value=1000,
            window_s=60,
            nonce=secrets.token_bytes(32),
            now_s=int(time.time()),
        )
        payer.sign(digest(authorization, asset))
    return BURST / (time.perf_counter() - began)


def _memory_in_use(keyd: Keyd) -> Iterator[Comparison]:
    yield Comparison(
        "resident memory after thousands of payments",
        "MB",
        Contender("osmoda-keyd", lambda: [resident_mb(keyd.program.pid)]),
        [Peer(Contender("import of the SDK's client", lambda: [_import_sdk()[1]]))],
        target=at_most(45),
        rounds=3,
    )


def _start(keyd: Keyd) -> Iterator[Comparison]:
    """`keyd` has been stopped; its state is what it starts with."""
    yield Comparison(
        "start to READY",
        "s",
        Contender("osmoda-keyd", lambda: [start_and_stop(keyd)[0]]),
        [Peer(Contender("import of the SDK's client", lambda: [_import_sdk()[0]]))],
        target=at_most(0.5),
    )
    yield Comparison(
        "resident memory at READY",
        "MB",
        Contender("osmoda-keyd", lambda: [start_and_stop(keyd)[1]]),
        [Peer(Contender("import of the SDK's client", lambda: [_import_sdk()[1]]))],
        target=at_most(45),
        rounds=3,
    )


def _import_sdk() -> tuple[float, float]:
    """Seconds until a program has imported the SDK's client, and MB resident then."""
    began = time.perf_counter()
    done = subprocess.run([SDK_PYTHON, "-c", SDK_IMPORT], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout) * 1024 / 1e6
