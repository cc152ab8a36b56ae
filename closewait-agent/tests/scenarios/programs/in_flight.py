"""A server that answers twelve clients, sends their sockets to a UNIX socket that nobody reads, and closes its copies."""

import socket
import time

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
sender, receiver = socket.socketpair()
for _ in range(12):
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"ok\n")
    socket.send_fds(sender, [b"x"], [connection.fileno()])
    connection.close()
print("sent", flush=True)
time.sleep(150)
