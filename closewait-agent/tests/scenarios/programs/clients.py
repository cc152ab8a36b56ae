"""Clients of an HTTP server: each asks for a path and closes after the answer, or without one when its patience ends.

usage: clients.py PORT PATH COUNT EVERY PATIENCE
Starts a client every EVERY seconds, COUNT in all; PATIENCE is in seconds.
"""

import socket
import sys
import threading
import time

PORT, PATH, COUNT, EVERY, PATIENCE = sys.argv[1:]


def ask():
    with socket.create_connection(("127.0.0.1", int(PORT))) as connection:
        connection.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.settimeout(float(PATIENCE))
        answer = b""
        try:
            while not answer.endswith(b"ok\n"):
                more = connection.recv(4096)
                if not more:
                    break
                answer += more
        except OSError:
            # The client gives up.
            pass


for _ in range(int(COUNT)):
    threading.Thread(target=ask).start()
    time.sleep(float(EVERY))
