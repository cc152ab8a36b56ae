"""A server of one thread that needs 0.15 s for each client, and answers none that has gone meanwhile."""

import select
import socket
import time

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    time.sleep(0.15)
    # Nobody asks twice.
    if select.select([connection], [], [], 0) == ([], [], []):
        connection.sendall(b"ok\n")
    connection.close()
