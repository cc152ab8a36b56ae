"""A backend that answers one request after the other; each takes 1.2 s."""

import socket
import time

listener = socket.create_server(("127.0.0.1", 9000), backlog=64)
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    time.sleep(1.2)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n")
    connection.close()
