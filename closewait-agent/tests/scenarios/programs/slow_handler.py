"""An HTTP server that needs six seconds for an answer."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(6)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok\n")


class Server(ThreadingHTTPServer):
    request_queue_size = 64


Server(("127.0.0.1", 8080), Handler).serve_forever()
