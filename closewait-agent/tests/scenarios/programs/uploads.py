"""A server that reads an upload up to its end, the client's FIN, works on it and answers.

usage: uploads.py stuck | SECONDS
`stuck`: the work needs a lock that is never released. SECONDS: the work takes this long.
"""

import socket
import sys
import threading
import time

disk = threading.Lock()


def serve(connection):
    while connection.recv(65536):
        pass
    if sys.argv[1] == "stuck":
        disk.acquire()
    else:
        time.sleep(float(sys.argv[1]))
    connection.sendall(b"ok\n")
    connection.close()


if sys.argv[1] == "stuck":
    disk.acquire()
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
