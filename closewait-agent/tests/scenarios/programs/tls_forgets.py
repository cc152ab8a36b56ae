"""A client that asks twice a second over TLS, for 20 s, and never reads, closes or gives back a response."""

import time

import urllib3

urllib3.disable_warnings()
pool = urllib3.HTTPSConnectionPool("127.0.0.1", 8443, cert_reqs="CERT_NONE", assert_hostname=False)
responses = []
for _ in range(40):
    responses.append(pool.request("GET", "/body", preload_content=False))
    time.sleep(0.5)
time.sleep(150)
