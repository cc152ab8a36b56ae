"""A server that forks for each connection; the child needs five seconds for the answer, closes and ends."""

import os
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
        try:
            connection.sendall(b"ok\n")
        except OSError:
            pass
        connection.close()
        os._exit(0)
    connection.close()
