"""The only server a page meets: files of the work directory as http://localhost/, everything else refused and noted."""

from __future__ import annotations

import base64
import os
import stat
from urllib.parse import unquote, urlsplit

ORIGIN = "http://localhost"
MOST_BYTES = 4 << 20  # of one file; a site may have four times as much in all
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".htm": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".wasm": "application/wasm",
}


class NotServed(Exception):
    """A file that is not there, not below the work directory, no regular file, or too large."""


class Site:
    """Answers requests of one page; remembers what was `refused`, what was `missing` and how many `bytes` went out."""

    def __init__(self, root: str, instead: dict[str, str] | None = None) -> None:
        """Serve what is below `root`, but of the paths in `instead` what is given there."""
        self.root = os.path.realpath(root)
        self.instead = instead or {}
        self.refused: list[str] = []
        self.missing: list[str] = []
        self.bytes = 0

    def answer(self, request: str, url: str) -> tuple[str, dict]:
        """Return the command (method, params) of the Fetch domain that answers a paused request."""
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != ORIGIN:
            self.refused.append(url[:200])
            return "Fetch.failRequest", {"requestId": request, "errorReason": "BlockedByClient"}
        try:
            body = self.read(parts.path)
        except NotServed as why:
            if parts.path != "/favicon.ico":  # which no page asked for
                self.missing.append(str(why))
            return "Fetch.fulfillRequest", _response(request, 404, "text/plain", b"not found")
        ending = os.path.splitext(parts.path)[1].lower() or ".html"
        return "Fetch.fulfillRequest", _response(request, 200, _TYPES.get(ending, "application/octet-stream"), body)

    def read(self, path: str) -> bytes:
        """Return the file that a path of a URL names; a folder is its index.html. Raises `NotServed`."""
        name = os.path.normpath("/" + unquote(path)).lstrip("/")
        if name in self.instead:
            return self.instead[name].encode()
        place = os.path.join(self.root, name)
        if os.path.isdir(place):
            place = os.path.join(place, "index.html")
        folder = os.path.dirname(place)
        if os.path.realpath(folder) != os.path.normpath(folder):
            raise NotServed(f"{name} is behind a symlink")
        try:
            fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError):
            raise NotServed(f"{name or 'index.html'} is missing") from None
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise NotServed(f"{name} is no regular file")
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES or self.bytes + len(data) > 4 * MOST_BYTES:
            raise NotServed(f"{name} is too large: at most {MOST_BYTES >> 20} MiB a file, {MOST_BYTES >> 18} in all")
        self.bytes += len(data)
        return data


def _response(request: str, code: int, kind: str, body: bytes) -> dict:
    headers = [{"name": "Content-Type", "value": kind}, {"name": "Cache-Control", "value": "no-store"}]
    text = base64.b64encode(body).decode()
    return {"requestId": request, "responseCode": code, "responseHeaders": headers, "body": text}
