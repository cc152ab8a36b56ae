"""A server that answers twelve clients, starts a helper that inherits their sockets, and closes its own copies."""

import socket
import subprocess
import time

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
connections = []
for _ in range(12):
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"ok\n")
    connection.set_inheritable(True)
    connections.append(connection)
subprocess.Popen(["sleep", "150"], close_fds=False)
for connection in connections:
    connection.close()
print("handed down", flush=True)
time.sleep(150)
