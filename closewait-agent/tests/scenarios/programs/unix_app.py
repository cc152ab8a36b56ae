"""A program behind a UNIX socket with five threads, each of which accepts a connection and answers one request.

usage: unix_app.py PATH stuck|SECONDS
With `stuck`, every request waits for a lock that is never released; otherwise it takes SECONDS.
"""

import os
import socket
import sys
import threading
import time

PATH, MODE = sys.argv[1:]
LOCK = threading.Lock()


def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        if MODE == "stuck":
            LOCK.acquire()
        time.sleep(float(MODE))
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n")
        connection.close()


if os.path.exists(PATH):
    os.unlink(PATH)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(PATH)
    listener.listen(64)
    LOCK.acquire()
    for _ in range(5):
        threading.Thread(target=serve, args=[listener], daemon=True).start()
    print("listens at", PATH, flush=True)
    threading.Event().wait()
