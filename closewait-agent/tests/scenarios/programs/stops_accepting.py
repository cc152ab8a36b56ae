"""A server that answers three clients and then accepts no more."""

import socket
import threading

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
for _ in range(3):
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"ok\n")
    connection.close()
threading.Event().wait()
