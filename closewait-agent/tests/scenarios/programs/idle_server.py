"""An HTTP server that keeps connections alive and closes those that were idle for one and a half seconds."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 1.5

    def do_GET(self):
        # Long enough for all clients of a pool to be there at once.
        time.sleep(0.4)
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")


class Server(ThreadingHTTPServer):
    request_queue_size = 64


Server(("127.0.0.1", 8080), Handler).serve_forever()
