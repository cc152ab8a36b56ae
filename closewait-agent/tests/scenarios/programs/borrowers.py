"""A client with twelve threads and a pool of eight connections; a thread that finds none free waits for one.

usage: borrowers.py leak | idle
`leak`: the threads never give a connection back. `idle`: they do, and then wait for work that does not come.
"""

import sys
import threading

import urllib3

pool = urllib3.HTTPConnectionPool("127.0.0.1", 8080, maxsize=8, block=True)
work = threading.Event()
responses = []


def borrow():
    while True:
        response = pool.request("GET", "/", preload_content=False)
        if sys.argv[1] == "leak":
            responses.append(response)
        else:
            response.read()
            response.release_conn()
            work.wait()


for _ in range(12):
    threading.Thread(target=borrow).start()
