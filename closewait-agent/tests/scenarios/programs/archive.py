"""A server for backups: it greets, closes its sending side and reads what comes.

usage: archive.py stuck | RATE
`stuck`: it reads nothing. RATE: it reads this many kB a second of each connection.
"""

import socket
import sys
import threading
import time


def store(connection):
    connection.sendall(b"go on\n")
    connection.shutdown(socket.SHUT_WR)
    if sys.argv[1] == "stuck":
        threading.Event().wait()
    while connection.recv(int(sys.argv[1]) * 200):
        time.sleep(0.2)
    connection.close()


listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
# A small buffer: the speed of the reader counts.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=store, args=(accepted,), daemon=True).start()
