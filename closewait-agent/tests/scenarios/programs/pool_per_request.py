"""A client that makes a new pool for every request, fourteen times, and keeps them all."""

import time

import urllib3

pools = []
for _ in range(14):
    pool = urllib3.PoolManager()
    pools.append(pool)
    assert pool.request("GET", "http://127.0.0.1:8080/").data == b"ok\n"
    time.sleep(0.5)
time.sleep(150)
