"""A WSGI application that answers; whoever asks for /block waits for a lock that nobody gives back."""

import threading

lock = threading.Lock()
lock.acquire()


def application(environ, start_response):
    if environ["PATH_INFO"] == "/block":
        lock.acquire()
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]
