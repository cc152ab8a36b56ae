"""A server with a thread for each connection, which waits for a job in Redis for up to 20 s (long polling)."""

import socket
import threading


def serve(connection):
    connection.recv(4096)
    with socket.create_connection(("127.0.0.1", 6379)) as redis:
        redis.sendall(b"BLPOP jobs 20\r\n")
        redis.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
    connection.close()


listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
