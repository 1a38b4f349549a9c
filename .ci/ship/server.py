"""An OpenAI-compatible server for the checks of what is shipped: says every text back in capitals.

server.py PORT KEY LOG [CERTIFICATE PRIVATE_KEY]: answers only to the key in the file KEY, and writes each text that it
was sent as a line of LOG. A text with `slow` takes two seconds, one with `poison` is refused for good; while the file
LOG.outage exists, everything is refused for now.
"""

import http.server
import json
import os
import ssl
import sys
import time

PORT, LOG = int(sys.argv[1]), sys.argv[3]
with open(sys.argv[2], encoding="utf-8") as file:
    KEY = file.read()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, kind, message):
        error = {"error": {"message": message, "type": kind, "code": kind}}
        self.send(status, "application/json", json.dumps(error).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(text) + "\n")
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return self.refuse(401, "invalid_api_key", "the key is wrong")
        if os.path.exists(LOG + ".outage"):
            return self.refuse(503, "unavailable", "back soon")
        if "poison" in text:
            return self.refuse(400, "invalid_request_error", "this text is refused")
        if "slow" in text:
            time.sleep(2)
        delta = {"choices": [{"index": 0, "delta": {"content": text.upper()}, "finish_reason": None}]}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        events = [json.dumps(delta), json.dumps(end), "[DONE]"]
        self.send(200, "text/event-stream", "".join(f"data: {event}\n\n" for event in events).encode())


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
