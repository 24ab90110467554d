"""A local web with a search engine, as a side service: ``python3 -S serve.py`` beside pages.json.

pages.json: {"pages": [{"address": "/kavo", "title": "kavo", "text": "...", "links": ["/rilemo"]}], "results": 5,
"words": 12}; a page that is "hidden" is not searched. Tools: search(query), which ranks by BM25 over titles and texts
(sqlite's FTS5), open(address), and answer(text), the last of which counts. Pages are served over GET too, as HTML. What
was asked is in $STATE: log.jsonl, and answer.txt. This file stands alone, because it is copied into tasks; the
generator uses its engine too, to know what a search will say.
"""

from __future__ import annotations

import html
import http.server
import json
import os
import re
import sqlite3
import threading

RESULTS = 5
_MOST_BYTES = 1 << 16
_PART = 1800  # characters of a page that are shown at a time: what agents see of an answer is bounded
_WORDS_OF_QUERY = 32


class Web:
    """Pages by address, and their index; `results` is the most that a search gives, `words` the size of a snippet."""

    def __init__(self, pages: list, results: int = RESULTS, words: int = 12) -> None:
        self._pages = {page["address"]: page for page in pages}
        self._results, self._words = results, words
        self._lock = threading.Lock()
        self._base = sqlite3.connect(":memory:", check_same_thread=False)
        self._base.execute("CREATE VIRTUAL TABLE web USING fts5(title, text, address UNINDEXED)")
        rows = [(page["title"], page["text"], page["address"]) for page in pages if not page.get("hidden")]
        self._base.executemany("INSERT INTO web VALUES (?, ?, ?)", rows)

    def search(self, query: str) -> str:
        """Return the best results, one a line: number, address, title, and words around what was found."""
        terms = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query)[:_WORDS_OF_QUERY])
        if not terms:
            return "error: an empty query"
        ask = (
            f"SELECT address, title, snippet(web, 1, '', '', '..', {self._words}) FROM web WHERE web MATCH ? "
            f"ORDER BY bm25(web, 4.0, 1.0), rowid LIMIT {self._results}"
        )
        with self._lock:
            found = self._base.execute(ask, (terms,)).fetchall()
        lines = [
            f"{n}. {address} {title}: {' '.join(text.split())}" for n, (address, title, text) in enumerate(found, 1)
        ]
        return "\n".join(lines) or "no results"

    def open(self, address: str) -> str:
        """Return a page as text, with the addresses it links to; a long one in parts, of which "/name#2" is one."""
        address, _, number = address.partition("#")
        page = self._pages.get(self._cleaned(address))
        if page is None:
            return f"error: no page {address[:80]}"
        links = f"\nlinks: {' '.join(page['links'])}" if page.get("links") else ""
        text = f"{page['title']}\n{page['text']}{links}"
        count = max(1, -(-len(text) // _PART))
        part = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1
        if not 1 <= part <= count:
            return f"error: page {address[:80]} has {count} parts"
        more = f"\n[part {part} of {count}; the next is {page['address']}#{part + 1}]" if part < count else ""
        return text[(part - 1) * _PART : part * _PART] + more

    def page(self, address: str) -> str:
        """Return a page as HTML, "" where there is none."""
        page = self._pages.get(self._cleaned(address))
        if page is None:
            return ""
        links = "".join(f'<li><a href="{html.escape(to)}">{html.escape(to)}</a></li>' for to in page.get("links", ()))
        title, text = html.escape(page["title"]), html.escape(page["text"]).replace("\n", "<br>\n")
        head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        return f"{head}<h1>{title}</h1><p>{text}</p><ul>{links}</ul></html>\n"

    @staticmethod
    def _cleaned(address: str) -> str:
        return "/" + re.sub(r"^https?://[^/]*", "", address.strip()).strip("/")


class Desk:
    """The tools by name, and the books on what was asked."""

    def __init__(self, web: Web, state: str) -> None:
        self._web, self._state = web, state
        self._lock = threading.Lock()

    def call(self, name: str, arguments: dict) -> tuple[int, str]:
        """Return (status, what to say)."""
        key = {"search": "query", "open": "address", "answer": "text"}.get(name)
        if key is None:
            return 404, f"error: no tool {name[:40]}"
        value = arguments.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return 400, f"error: {name} needs the argument {key} as a string"
        with self._lock:
            self._note("log.jsonl", json.dumps({"tool": name, key: value}) + "\n", "a")
            if name == "answer":
                self._note("answer.txt", value, "w")
                return 200, "noted"
        said = self._web.search(value) if name == "search" else self._web.open(value)
        return (400 if said.startswith("error:") else 200), said

    def get(self, path: str) -> tuple[int, str]:
        """Return (status, HTML) of a page."""
        text = self._web.page(path.partition("?")[0])
        with self._lock:
            self._note("log.jsonl", json.dumps({"tool": "open", "address": path}) + "\n", "a")
        return (200, text) if text else (404, "<!doctype html><title>no such page</title>\n")

    def _note(self, name: str, text: str, mode: str) -> None:
        with open(os.path.join(self._state, name), mode, encoding="utf-8", errors="replace") as file:
            file.write(text)


class Handler(http.server.BaseHTTPRequestHandler):
    """GET /health, GET of a page, POST /tools/NAME."""

    desk: Desk

    def do_GET(self) -> None:
        """Answer with a page."""
        if self.path == "/health":
            self._answer(200, "ready\n", "text/plain")
        else:
            self._answer(*self.desk.get(self.path), "text/html")

    def do_POST(self) -> None:
        """Call a tool."""
        size = self.headers.get("content-length", "0")
        if not size.isdigit() or int(size) > _MOST_BYTES:
            self._answer(413, "error: too long", "text/plain")
            return
        try:
            arguments = json.loads(self.rfile.read(int(size)) or b"{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict) or not self.path.startswith("/tools/"):
            self._answer(400, "error: POST /tools/NAME with a JSON object", "text/plain")
            return
        self._answer(*self.desk.call(self.path[7:], arguments), "text/plain")

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""

    def _answer(self, status: int, text: str, kind: str) -> None:
        data = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Serve until ended."""
    with open("pages.json", encoding="utf-8") as file:
        web = json.load(file)
    Handler.desk = Desk(Web(web["pages"], web["results"], web["words"]), os.environ["STATE"])
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
