"""A client that asks three times every half second, the second time for /forget, for half a minute."""

import socket
import time

for _ in range(60):
    for path in ("/", "/forget", "/"):
        connection = socket.create_connection(("127.0.0.1", 8080))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"ok\n"):
            more = connection.recv(4096)
            assert more, answer
            answer += more
        connection.close()
    time.sleep(0.5)
