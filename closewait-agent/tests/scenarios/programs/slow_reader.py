"""A client that takes ten answers at once, 5 kB a second of each, and closes each at its end."""

import socket
import time

connections = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(10)]
for connection in connections:
    connection.sendall(b"GET /body HTTP/1.1\r\nHost: localhost\r\n\r\n")
while connections:
    time.sleep(0.2)
    for connection in list(connections):
        if not connection.recv(1000):
            connection.close()
            connections.remove(connection)
