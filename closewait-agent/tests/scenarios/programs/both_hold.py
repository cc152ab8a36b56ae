"""A server that answers twelve clients and forks; parent and child keep the sockets and look at them no more."""

import os
import socket
import time

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
connections = []
for _ in range(12):
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"ok\n")
    connections.append(connection)
if os.fork() == 0:
    print("forked", flush=True)
time.sleep(150)
