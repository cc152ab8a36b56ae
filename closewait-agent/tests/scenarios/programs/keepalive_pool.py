"""A client with one session, busy once with twelve requests at a time and idle since."""

import time
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter

SIZE = 12
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=SIZE))
with ThreadPoolExecutor(SIZE) as executor:
    for text in executor.map(lambda _: session.get("http://127.0.0.1:8080/").text, range(SIZE)):
        assert text == "ok\n"
time.sleep(150)
