"""A web server that costs little: 1 KB for GET, as many bytes as /NUMBER says, and an empty answer to uploads."""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl

BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: origin\r\nContent-Length: %d\r\n\r\n"
PIECE = bytes(256 * 1024)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await upload(reader, head)
                writer.write(ANSWER % 0)
            elif (size := head.split(None, 2)[1].rpartition(b"/")[2]).isdigit():
                await download(writer, int(size))
            else:
                writer.write(ANSWER % len(BODY) + BODY)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def upload(reader: asyncio.StreamReader, head: bytes) -> None:
    left = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
    while left:
        left -= len(await reader.read(min(left, len(PIECE))))


async def download(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(ANSWER % size)
    for start in range(0, size, len(PIECE)):
        writer.write(PIECE[: size - start])
        await writer.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate", help="PEM with its key: serve https")
    certificate = parser.parse_args().certificate
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    print(json.dumps({"event": "origin.ready", "port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


asyncio.run(main())
