"""A client that makes a new pool for each of two requests a second, for half a minute, and keeps them all."""

import time

import urllib3

pools = []
for _ in range(60):
    pool = urllib3.PoolManager()
    pools.append(pool)
    assert pool.request("GET", "http://127.0.0.1:8080/").data == b"ok\n"
    time.sleep(0.5)
time.sleep(150)
