"""A server that reads the request up to its end, the client's FIN, and then sends a line ten times a second."""

import socket
import threading
import time


def serve(connection):
    while connection.recv(4096):
        pass
    try:
        while True:
            connection.sendall(b"a line of a long answer\n")
            time.sleep(0.1)
    except OSError:
        connection.close()


listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
