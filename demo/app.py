"""The demo's web application: every answer says which instance of which version gave it.

Runs as a container and as a plain process alike: `app.py ADDRESS`, the port is in the environment.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers every GET: /health for the health check, anything else with who we are."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        who = {
            "instance": os.environ.get("GESTALT_INSTANCE", ""),
            "attempt": int(os.environ.get("GESTALT_ATTEMPT", "1")),
            "version": int(os.environ.get("GESTALT_VERSION", "0")),
            "greeting": os.environ.get("GREETING", ""),
            "pid": os.getpid(),
        }
        body = b"ok\n" if self.path == "/health" else json.dumps(who).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if self.path == "/health" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        if self.path != "/health":
            sys.stdout.write(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}\n")
            sys.stdout.flush()


class Server(ThreadingHTTPServer):
    """A thread a connection; those under way are finished before the end."""

    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    """Serve until SIGTERM."""
    server = Server((sys.argv[1], int(os.environ["PORT_HTTP"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stdout.write(f"{os.environ.get('GREETING', '')} on port {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
