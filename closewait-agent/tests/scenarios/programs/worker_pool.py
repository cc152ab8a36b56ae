"""A server with eight worker threads and a queue of connections before them. An order needs the lock of the ledger.

usage: worker_pool.py (stuck | SECONDS) [DESCRIPTORS]
`stuck`: another thread has the lock and never releases it. SECONDS: each order holds the lock for this time.
DESCRIPTORS is the process's limit of open files. At the limit, the server goes on trying to accept.
"""

import queue
import resource
import socket
import sys
import threading
import time

ledger = threading.Lock()
connections = queue.Queue()


def work():
    while True:
        connection = connections.get()
        request = connection.recv(4096)
        if b"/order" in request:
            with ledger:
                time.sleep(float(sys.argv[1]))
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
        connection.close()


if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
if sys.argv[1] == "stuck":
    ledger.acquire()
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    try:
        accepted, _ = listener.accept()
    except OSError:
        # No descriptor is left.
        time.sleep(0.1)
        continue
    connections.put(accepted)
