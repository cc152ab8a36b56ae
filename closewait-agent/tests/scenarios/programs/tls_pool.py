"""A client with one pool of TLS connections, busy once with twelve requests at a time and idle since."""

import time
from concurrent.futures import ThreadPoolExecutor

import urllib3

urllib3.disable_warnings()
SIZE = 12
pool = urllib3.HTTPSConnectionPool("127.0.0.1", 8443, maxsize=SIZE, cert_reqs="CERT_NONE", assert_hostname=False)
with ThreadPoolExecutor(SIZE) as executor:
    for data in executor.map(lambda _: pool.request("GET", "/").data, range(SIZE)):
        assert data == b"ok\n"
time.sleep(150)
