"""1 KB for every request, on a bare epoll: a twentieth of what a proxy takes, so that two of them can be told from one."""

from __future__ import annotations

import json
import select
import socket

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: origin\r\nContent-Length: 1024\r\n\r\n"
    + b"x" * 1024
)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, select.epoll() as poll:
        poll.register(listener, select.EPOLLIN)
        print(
            json.dumps({"event": "quick_origin.ready", "port": listener.getsockname()[1]}),
            flush=True,
        )
        connections: dict[int, socket.socket] = {}
        while True:
            for descriptor, _ in poll.poll():
                if (connection := connections.get(descriptor)) is not None:
                    if not answer(connection):
                        del connections[descriptor]
                        connection.close()
                else:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connections[connection.fileno()] = connection
                    poll.register(connection, select.EPOLLIN)


def answer(connection: socket.socket) -> bool:
    """Whether the connection lives. A request of the bench comes in one piece."""
    try:
        if not connection.recv(65536):
            return False
        connection.sendall(ANSWER)
    except ConnectionError:
        return False
    return True


main()
