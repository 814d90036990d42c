"""Runs an ASGI app on a free port and says which one, in the JSON line that the tests wait for."""

import argparse
import json
import socket
from pathlib import Path
from typing import Any

import uvicorn


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chain", type=lambda file: json.loads(Path(file).read_text()), required=True)
    parser.add_argument("--facilitator", help="URL")
    parser.add_argument("--tls-certificate")
    parser.add_argument("--tls-key")
    return parser


def serve(app: Any, name: str, args: argparse.Namespace) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    scheme, host = ("https", "localhost") if args.tls_certificate else ("http", "127.0.0.1")
    config = uvicorn.Config(
        app, log_level="warning", ssl_certfile=args.tls_certificate, ssl_keyfile=args.tls_key
    )
    url = f"{scheme}://{host}:{listener.getsockname()[1]}"
    print(json.dumps({"event": f"{name}.ready", "url": url}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])
