"""A server that answers and closes; on the path /forget it answers and goes on to the next.

usage: forgets.py [DESCRIPTORS]
DESCRIPTORS is the process's limit of open files.
"""

import resource
import socket
import sys
import threading

if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)

forgotten = []


def serve(connection):
    request = connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
    if b"/forget" in request:
        forgotten.append(connection)
    else:
        connection.recv(4096)
        connection.close()


listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
