"""Serves one desk over HTTP: ``python3 -S serve.py`` with $PORT and $STATE, beside desk.py, customer.py and plan.json.

POST /tools/NAME with a JSON object, POST /say with {"text": ...}; the text of the answer is what the agent observes.
Every event is in $STATE/log.jsonl before it is answered. Nothing that is asked can end the service. This file stands
alone, because it is copied into tasks.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MOST_BYTES, _MOST_EVENTS = 1 << 16, 2000


class Counter:
    """The desk, its log, and a lock: events happen one after the other. `left` says that the customer has gone."""

    def __init__(self, plan: dict, log_path: str) -> None:
        self.customer = importlib.import_module("customer").Customer(plan["customer"])
        backend = importlib.import_module(plan["backend"])
        self._desk = importlib.import_module("desk").Desk(backend, plan["state"], self.customer)
        self._log = open(log_path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the service runs)
        self._lock = threading.Lock()
        self._events = 0

    def happen(self, event: dict) -> str | None:
        """Log an event and return what comes of it; None when the customer has left before."""
        with self._lock:
            if "say" in event and self.customer.over:
                return None
            self._events += 1
            if self._events > _MOST_EVENTS:
                return "error: too many calls"
            self._log.write(json.dumps(event) + "\n")
            self._log.flush()
            if "say" in event:
                return self._desk.say(event["say"])
            return self._desk.call(event["tool"], event["arguments"])


class Handler(BaseHTTPRequestHandler):
    """Answers requests at `counter`."""

    counter: Counter
    timeout = 20

    def do_GET(self) -> None:
        """Say whether the service is ready."""
        self._answer(200 if self.path == "/health" else 404, "")

    def do_POST(self) -> None:
        """Let an event happen."""
        try:
            length = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(length) if 0 <= length <= _MOST_BYTES else b"")
            if not isinstance(body, dict):
                raise ValueError("not an object")
            if self.path == "/say":
                event = {"say": str(body["text"])}
            elif self.path.startswith("/tools/"):
                event = {"tool": self.path[len("/tools/") :], "arguments": body}
            else:
                return self._answer(404, "error: not found")
            json.dumps(event).encode()
        except (ValueError, KeyError, RecursionError):
            return self._answer(400, "error: the body must be a JSON object of at most 65536 bytes")
        told = self.counter.happen(event)
        return self._answer(204, "") if told is None else self._answer(200, told)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _answer(self, status: int, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status != 204:
            self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Many requests at once, whatever becomes of one."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Go on: whoever asked is gone."""


def main() -> None:
    """Serve until killed."""
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    Handler.counter = Counter(plan, os.path.join(os.environ["STATE"], "log.jsonl"))
    Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
