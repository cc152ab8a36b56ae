"""The same as blocked.c, in Python."""

import socket
import sys
import threading

lock = threading.Lock()


def reserve():
    lock.acquire()


def serve():
    reserve()


listener = socket.create_server((f"127.79.0.{sys.argv[2]}", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.close()
lock.acquire()
for _ in range(1, int(sys.argv[1])):
    threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
reserve()
