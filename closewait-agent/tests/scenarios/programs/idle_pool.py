"""A client with a pool of twelve connections: each has had one answer, and is idle since.

usage: idle_pool.py PORT
"""

import http.client
import sys
import threading
import time

pool = [http.client.HTTPConnection("127.0.0.1", int(sys.argv[1])) for _ in range(12)]


def ask(connection):
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"ok\n"


threads = [threading.Thread(target=ask, args=(connection,)) for connection in pool]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
while True:
    time.sleep(60)
