"""Clients of Redis: one runs a script; the others, which have asked before, ask again meanwhile and leave after 1 s.

usage: redis_client.py forever | SECONDS OTHERS
"""

import socket
import sys
import time


def run(client, script):
    script = script.encode()
    client.sendall(b"*3\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(script), script))


first, *others = [socket.create_connection(("127.0.0.1", 6379)) for _ in range(1 + int(sys.argv[2]))]
for client in others:
    client.sendall(b"PING\r\n")
    assert client.recv(100) == b"+PONG\r\n"
if sys.argv[1] == "forever":
    run(first, "while true do end")
else:
    # Measures how fast Redis counts.
    start = time.monotonic()
    run(first, "for i = 1, 1e8 do end")
    first.recv(100)
    rounds = 1e8 / (time.monotonic() - start) * float(sys.argv[1])
    run(first, f"for i = 1, {rounds} do end")
time.sleep(0.3)
print("the script runs", flush=True)
for client in others:
    client.sendall(b"PING\r\n")
time.sleep(1)
for client in others:
    client.close()
first.recv(100)
