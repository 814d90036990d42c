"""Runs an ASGI app on a free port and says which one, in the JSON line that the tests wait for."""

import argparse
import json
import socket
from collections.abc import Callable
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
    serve_at(lambda _: app, name, args)


def serve_at(make_app: Callable[[str], Any], name: str, args: argparse.Namespace) -> None:
    """For an app that has to know its own URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    scheme, host = ("https", "localhost") if args.tls_certificate else ("http", "127.0.0.1")
    url = f"{scheme}://{host}:{listener.getsockname()[1]}"
    app = make_app(url)
    config = uvicorn.Config(
        app, log_level="warning", ssl_certfile=args.tls_certificate, ssl_keyfile=args.tls_key
    )
    print(json.dumps({"event": f"{name}.ready", "url": url}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])
