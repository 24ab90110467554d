"""Chromium without a window, spoken to through a pipe (Chrome DevTools Protocol), never waited for without an end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable

PLACES = (  # the shell first: the same engine without a browser around it starts for a third of the work
    "/usr/lib/chromium/chromium-headless-shell",
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome-headless-shell",
)
MISSING = "no Chromium on this machine or in the task's image: apt-get install chromium-headless-shell (or chromium)"
_FLAGS = (
    "--headless",
    "--no-sandbox",  # the sandbox around us denies the namespaces that Chromium's own would need
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-site-isolation-trials",
    "--disable-blink-features=AutomationControlled",  # pages see the browser that people use
    "--disable-features=IsolateOrigins,site-per-process,Translate,MediaRouter,OptimizationHints",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--no-zygote",
    "--font-render-hinting=none",
    "--force-color-profile=srgb",
    "--js-flags=--max-old-space-size=256",
    "--remote-debugging-pipe",
)
_STDERR_TAIL = 300


class BrowserGone(Exception):
    """The browser could not be started or went away: nobody's page can be judged."""


class Unanswered(Exception):
    """The page did not answer in time, or refused what was asked."""


def find_browser() -> str:
    """Return the path of a Chromium or Chrome, or an empty string."""
    for place in PLACES:
        if found := shutil.which(place):
            return found
    return ""


class Browser:
    """A running Chromium; close it, whatever happens. `on_event` is given every event as (method, params, session)."""

    def __init__(self, program: str = "", *, start_s: float = 30.0) -> None:
        """Start it with an empty profile. Raises `BrowserGone`."""
        program = program or find_browser()
        if not program:
            raise BrowserGone(MISSING)
        self.on_event: Callable[[str, dict, str], None] = lambda *_: None
        self._next = 0
        self._buffer = bytearray()
        self._answers: dict[int, dict] = {}
        self._unasked: set[int] = set()
        self._events: deque[dict] = deque()
        self._profile = tempfile.mkdtemp(prefix="profile")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as we do)
        self._launch(program)
        try:
            self.call("Browser.getVersion", limit_s=start_s)
        except Unanswered as error:
            self.close()
            raise BrowserGone(f"Chromium does not answer: {error}") from None

    def call(self, method: str, params: dict | None = None, *, session: str = "", limit_s: float = 10.0) -> dict:
        """Return the result of a command. Raises `Unanswered`, `BrowserGone`; events are handled on the way."""
        number = self._send(method, params or {}, session)
        ends = time.monotonic() + limit_s
        while number not in self._answers:
            if not self._receive(ends - time.monotonic()):
                raise Unanswered(f"{method} took longer than {limit_s:.0f} s")
            self._deliver()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Unanswered(f"{method}: {answer['error'].get('message', '')}")
        return answer["result"]

    def send(self, method: str, params: dict | None = None, *, session: str = "") -> None:
        """Send a command whose answer nobody waits for. Raises `BrowserGone`."""
        self._unasked.add(self._send(method, params or {}, session))

    def listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Handle events for some time, or until something holds; say whether it does. Raises `BrowserGone`."""
        ends = time.monotonic() + seconds
        while True:
            self._deliver()
            if until():
                return True
            if not self._receive(ends - time.monotonic()):
                return until()

    def close(self) -> None:
        """End it and all of its processes. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for fd in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._to = self._from = -1
        self._said.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _launch(self, program: str) -> None:
        in_read, self._to = os.pipe()
        self._from, out_write = os.pipe()

        def arrange() -> None:
            high_in, high_out = os.dup(in_read), os.dup(out_write)
            os.dup2(high_in, 3)  # what --remote-debugging-pipe reads and writes
            os.dup2(high_out, 4)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")  # where memory ends, the browser goes and not the judge

        try:
            self._process = subprocess.Popen(
                [program, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
                preexec_fn=arrange,
                close_fds=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": self._profile, "LANG": "C.UTF-8", "TZ": "UTC"},
            )
        finally:
            os.close(in_read)
            os.close(out_write)

    def _send(self, method: str, params: dict, session: str) -> int:
        self._next += 1
        message: dict = {"id": self._next, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        try:
            while data:
                data = data[os.write(self._to, data) :]
        except OSError:
            raise BrowserGone(f"Chromium is gone: {self._tail()}") from None
        return self._next

    def _receive(self, left_s: float) -> bool:
        """Take in one message; False when the time is over."""
        while b"\0" not in self._buffer:
            if left_s <= 0 or not select.select([self._from], [], [], left_s)[0]:
                return False
            data = os.read(self._from, 1 << 20)
            if not data:
                raise BrowserGone(f"Chromium is gone: {self._tail()}")
            self._buffer += data
        message, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer = bytearray(rest)
        parsed = json.loads(message)
        if "id" in parsed and parsed["id"] in self._unasked:
            self._unasked.discard(parsed["id"])
        elif "id" in parsed:
            self._answers[parsed["id"]] = parsed
        else:
            self._events.append(parsed)
        return True

    def _deliver(self) -> None:
        while self._events:
            event = self._events.popleft()
            self.on_event(event["method"], event.get("params", {}), event.get("sessionId", ""))

    def _tail(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._said.seek(0)
            return self._said.read().decode(errors="replace").strip()[-_STDERR_TAIL:]
        return ""
