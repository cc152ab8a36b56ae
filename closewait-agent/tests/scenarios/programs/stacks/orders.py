"""A server with eight workers.

/order takes the lock of the ledger; after /audit, a thread has it and never releases it. /report asks the backend.
/forget answers and keeps the connection. Everything else is answered, and the connection closed.
"""

import concurrent.futures
import socket
import threading
import time

ledger = threading.Lock()
forgotten = []


def reserve():
    with ledger:
        return b"ok\n"


def report():
    with socket.create_connection(("127.0.0.1", 8081)) as backend:
        backend.sendall(b"report\n")
        return backend.recv(4096)


def audit():
    with ledger:
        while True:
            time.sleep(1000)


def serve(connection):
    path = connection.recv(4096).split(b" ")[1]
    answer = b"ok\n"
    if path == b"/order":
        answer = reserve()
    elif path == b"/report":
        answer = report()
    elif path == b"/audit":
        threading.Thread(target=audit, daemon=True).start()
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + answer)
    if path == b"/forget":
        forgotten.append(connection)
    else:
        connection.close()


pool = concurrent.futures.ThreadPoolExecutor(8)
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
while True:
    try:
        accepted, _ = listener.accept()
    except OSError:
        # No descriptor is left.
        time.sleep(0.1)
        continue
    pool.submit(serve, accepted)
