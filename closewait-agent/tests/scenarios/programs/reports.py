"""A server with a thread for each connection. It closes first; a report takes a while.

usage: reports.py stuck | SECONDS
`stuck`: a report needs a lock that is never released. SECONDS: a report takes this long.
"""

import socket
import sys
import threading
import time

database = threading.Lock()


def serve(connection):
    request = connection.recv(4096)
    if b"/report" in request:
        if sys.argv[1] == "stuck":
            database.acquire()
        else:
            time.sleep(float(sys.argv[1]))
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
    connection.close()


if sys.argv[1] == "stuck":
    database.acquire()
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
