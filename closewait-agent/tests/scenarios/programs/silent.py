"""A backend that accepts, reads the request and never answers."""

import socket

listener = socket.create_server(("127.0.0.1", 9000), backlog=64)
connections = []
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    connections.append(connection)
