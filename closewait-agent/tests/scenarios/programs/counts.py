"""A server with one thread. On the path /count it computes.

usage: counts.py forever | SECONDS
`forever`: the computation never ends. SECONDS: it takes this much CPU time.
"""

import socket
import sys
import time

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    connection, _ = listener.accept()
    if b"/count" in connection.recv(4096):
        start = time.process_time()
        while sys.argv[1] == "forever" or time.process_time() - start < float(sys.argv[1]):
            pass
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
    connection.close()
