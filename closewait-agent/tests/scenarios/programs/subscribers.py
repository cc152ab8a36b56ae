"""A server that sends a heartbeat to all subscribers from time to time and reads nothing from them.

usage: subscribers.py lost | SECONDS
`lost`: the thread that sends the heartbeats has died. SECONDS: the time between two heartbeats.
"""

import socket
import sys
import threading
import time

subscribers = []


def heartbeats(seconds):
    while True:
        time.sleep(float(seconds))
        for connection in list(subscribers):
            try:
                connection.sendall(b"heartbeat\n")
            except OSError:
                subscribers.remove(connection)
                connection.close()


threading.Thread(target=heartbeats, args=(sys.argv[1],), daemon=True).start()
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    accepted, _ = listener.accept()
    accepted.recv(4096)
    accepted.sendall(b"HTTP/1.0 200 OK\r\n\r\nsubscribed, ok\n")
    subscribers.append(accepted)
