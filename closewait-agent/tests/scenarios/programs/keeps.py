"""A server that answers and keeps every connection. Once port 8082 is asked, it shuts down those of port 8080."""

import socket
import threading
import time

connections = {8080: [], 8081: []}


def serve(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"ok\n")
        connections[port].append(connection)


for each in connections:
    threading.Thread(target=serve, args=(each,), daemon=True).start()
word, _ = socket.create_server(("127.0.0.1", 8082)).accept()
for one in connections[8080]:
    one.shutdown(socket.SHUT_WR)
time.sleep(150)
