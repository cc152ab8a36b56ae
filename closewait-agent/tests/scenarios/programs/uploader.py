"""Clients that send 50 kB each, close their sending side and wait for the answer.

usage: uploader.py COUNT PATIENCE
Starts COUNT clients, one every fifth of a second; each closes its connection after PATIENCE seconds without an answer.
"""

import socket
import sys
import threading
import time


def upload():
    with socket.create_connection(("127.0.0.1", 8080)) as connection:
        connection.sendall(b"x" * 50_000)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(float(sys.argv[2]))
        try:
            print("answer:", connection.recv(4096), flush=True)
        except TimeoutError:
            # The client gives up.
            pass


for _ in range(int(sys.argv[1])):
    threading.Thread(target=upload).start()
    time.sleep(0.2)
