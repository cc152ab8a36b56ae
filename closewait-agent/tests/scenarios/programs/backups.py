"""A client that only writes: ten backups of 6 MB at the same time."""

import socket
import threading


def backup():
    with socket.create_connection(("127.0.0.1", 8080)) as connection:
        assert connection.recv(4096)
        connection.sendall(b"x" * 6_000_000)


for _ in range(10):
    threading.Thread(target=backup).start()
