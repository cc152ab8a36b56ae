"""A server that forks for each connection; the child works for five seconds, sees that its client has gone, and ends."""

import os
import select
import signal
import socket
import time

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    connection, _ = listener.accept()
    if os.fork() == 0:
        listener.close()
        connection.recv(4096)
        time.sleep(5)
        # Nobody asks twice.
        if select.select([connection], [], [], 0) == ([], [], []):
            connection.sendall(b"ok\n")
        connection.close()
        os._exit(0)
    connection.close()
