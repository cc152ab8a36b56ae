"""A backend that answers each request after a time.

usage: backend.py SECONDS
"""

import socket
import sys
import threading
import time


def answer(connection):
    with connection:
        connection.recv(4096)
        time.sleep(float(sys.argv[1]))
        connection.sendall(b"ok\n")


listener = socket.create_server(("127.0.0.1", 8081), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=answer, args=(accepted,), daemon=True).start()
