"""A server with three worker processes, which share the listener and have eight threads each.

usage: prefork.py stuck | SECONDS
`stuck`: in worker-2, a request needs a lock that is never released. SECONDS: in worker-2, a request takes this long.
"""

import os
import socket
import sys
import threading
import time

cache = threading.Lock()


def serve(listener, is_second):
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        if is_second and sys.argv[1] == "stuck":
            cache.acquire()
        elif is_second:
            time.sleep(float(sys.argv[1]))
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
        connection.close()


shared = socket.create_server(("127.0.0.1", 8080), backlog=64)
for number in (1, 2, 3):
    if os.fork() == 0:
        with open("/proc/self/comm", "w") as comm:
            comm.write(f"worker-{number}")
        cache.acquire()
        for _ in range(8):
            threading.Thread(target=serve, args=(shared, number == 2)).start()
        break
else:
    os.wait()
