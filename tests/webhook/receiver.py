"""A receiver of webhooks that takes what the library of Standard Webhooks verifies, and nothing else.

    receiver.py SECRET [CHAIN KEY]

With a chain of certificates and its key, over TLS. It prints its port, then one line of JSON per message: the headers, the body, and why it was refused
if it was. It ends when its standard input closes.
"""

import json
import os
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

webhook = Webhook(sys.argv[1])


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        told = {"headers": headers, "body": body.decode(), "refused": None}
        try:
            webhook.verify(body, headers)
            status = 204
        except Exception as error:
            told["refused"] = f"{type(error).__name__}: {error}"
            status = 400
        # Before the answer: then the order of lines is the order of messages.
        print(json.dumps(told), flush=True)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
