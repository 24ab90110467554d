"""Any folder of HTML, Markdown or text as the web of a task: its pages, questions of the user's, or some of its links.

Questions are rows {"question", "answer", "kind", "page"}: the answer a text or a list of accepted forms, a number, with
`"kind": "date"` a date as in 2020-12-31, with `"kind": "set"` a list of which each must be named; `page` (optional) is
the address of the page that says it. Without questions some are made of links that lead from one page only.
"""

from __future__ import annotations

import datetime
import os
import posixpath
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from palmette.envs.api import Draft, Split
from palmette.envs.importers.rows import Row, RowRefused, read_rows
from palmette.envs.search.domain import draft_of
from palmette.envs.search.serve import RESULTS, Web
from palmette.envs.search.web import WORDS
from palmette.errors import UserError

_HTML, _MARKDOWN, _PLAIN = (".html", ".htm", ".xhtml"), (".md", ".markdown"), (".txt",)
_MOST_PAGE_BYTES, _MOST_BYTES = 4 << 20, 32 << 20
_LINK = re.compile(r"!?\[([^\]]*)\]\(<?([^)\s>]+)>?[^)]*\)")


def read_corpus(folder: Path) -> list[dict[str, Any]]:
    """Return the pages of a folder as pages.json has them, by address. Links that leave it, and symlinks, are left out.

    Raises `UserError` for a folder without pages, a page above 4 MiB, and more than 32 MiB in all.
    """
    pages: list[dict[str, Any]] = []
    size = 0
    for path in _files(folder):
        data = path.read_bytes()
        size += len(data)
        if len(data) > _MOST_PAGE_BYTES or size > _MOST_BYTES:
            what = "is larger than 4 MiB" if len(data) > _MOST_PAGE_BYTES else "makes the corpus larger than 32 MiB"
            raise UserError(f"{path} {what}; leave it out, or split it")
        pages.append(_page(path, "/" + path.relative_to(folder).as_posix(), data.decode(errors="replace")))
    if not pages:
        raise UserError(f"{folder} holds no page ({', '.join((*_HTML, *_MARKDOWN, *_PLAIN))})")
    there = {page["address"] for page in pages}
    for page in pages:
        page["links"] = [to for to in dict.fromkeys(page["links"]) if to in there and to != page["address"]]
    return pages


def corpus_drafts(
    folder: Path, questions: Path | None, *, count: int, split: Split, seed: int
) -> tuple[list[Draft], list[str]]:
    """Return tasks over a folder of pages, and why some rows are refused; without `questions` at most `count` are made.

    Raises `UserError` for a folder or a file that will not do.
    """
    pages = read_corpus(folder)
    web, made, refused = Web(pages, RESULTS, WORDS), list[Draft](), list[str]()
    asked = _of_links(pages, web, random.Random(f"corpus/{seed}")) if questions is None else _of_rows(questions, pages)
    for question in asked:
        if isinstance(question, RowRefused):
            refused.append(str(question))
            continue
        text, said, expected, page = question
        calls = [("search", {"query": text}), *([("open", {"address": page})] if page else [])]
        made.append(
            draft_of(
                name=f"search/{folder.name}-{split}-{len(made):05d}",
                instruction=f"{text} Search the web and give the answer.",
                pages=pages,
                results=RESULTS,
                words=WORDS,
                calls=[*calls, ("answer", {"text": said})],
                expected=expected,
                tier=3,
                split=split,
                skills=("links",) if questions is None else ("corpus",),
                web=web,
                template="search/links" if questions is None else "search/corpus",
                source=f"corpus/{folder.name}",
                license="",
                provenance=f"pages of {folder.name}",
            )
        )
        if questions is None and len(made) == count:
            break
    if not made and not refused:
        raise UserError(f"{folder}: no page is the only one that links to two others; give questions by --questions")
    return made, refused


Question = tuple[str, str, dict[str, Any], str]  # text, answer as it is said, what is expected, page


def _of_rows(path: Path, pages: Sequence[Mapping[str, Any]]) -> Iterator[Question | RowRefused]:
    there = {page["address"] for page in pages}
    for row in read_rows(path):
        if isinstance(row, RowRefused):
            yield row
            continue
        try:
            page = row.text("page", "")
            if page and page not in there:
                raise row.refuse(f"page {page} is not in the corpus; addresses are as in /folder/name.html")
            yield row.text("question").strip(), *_answer(row), page
        except RowRefused as error:
            yield error


def _answer(row: Row) -> tuple[str, dict[str, Any]]:
    """Return an answer as one would say it, and what is expected."""
    value, kind = row.data.get("answer"), row.text("kind", "")
    if isinstance(value, int | float) and not isinstance(value, bool) and kind in ("", "number"):
        return str(value), {"kind": "number", "accept": value}
    if kind == "date" and isinstance(value, str):
        try:
            return value, {"kind": "date", "accept": datetime.date.fromisoformat(value).isoformat()}
        except ValueError:
            raise row.refuse(f"answer must be a date as in 2020-12-31, not {value[:40]!r}") from None
    forms: list[Any] = value if isinstance(value, list) else [value]
    if not forms or not all(isinstance(form, str) and re.search(r"\w", form) for form in forms):
        raise row.refuse("answer must be a text, a list of texts, or a number")
    if kind == "set":
        return ", ".join(forms), {"kind": "set", "accept": [[form] for form in forms]}
    if kind not in ("", "text"):
        raise row.refuse(f"kind is text, number, date or set, and fits its answer, not {kind[:40]!r}")
    return forms[0], {"kind": "text", "accept": forms}


def _of_links(pages: list[dict[str, Any]], web: Web, rng: random.Random) -> Iterator[Question]:
    """Yield questions for the one page that links to two others and names both, which a search for these two finds."""
    titles = defaultdict[str, list[str]](list)
    for page in pages:
        titles[page["title"]].append(page["address"])
    unique = {page["address"]: page["title"] for page in pages if len(titles[page["title"]]) == 1}
    from_ = defaultdict[str, set[str]](set)
    for page in pages:
        for to in page["links"]:
            from_[to].add(page["address"])
    order = [page for page in pages if page["address"] in unique and len(page["links"]) > 1]
    rng.shuffle(order)
    for page in order:
        named = [to for to in page["links"] if unique.get(to, "\0") in page["text"]]
        pairs = list(combinations(named[:12], 2))
        rng.shuffle(pairs)
        for one, other in pairs:
            query = f"{unique[one]} {unique[other]}"
            if from_[one] & from_[other] == {page["address"]} and f" {page['address']} " in web.search(query):
                text = f'What is the title of the only page that links to both "{unique[one]}" and "{unique[other]}"?'
                yield text, page["title"], {"kind": "text", "accept": [page["title"]]}, page["address"]
                break


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of pages")
    for here, inner, names in os.walk(folder):
        inner.sort()
        for name in sorted(names):
            path = Path(here) / name
            if path.suffix.lower() in (*_HTML, *_MARKDOWN, *_PLAIN) and path.is_file() and not path.is_symlink():
                yield path


def _page(path: Path, address: str, text: str) -> dict[str, Any]:
    title, links = "", list[str]()
    if path.suffix.lower() in _HTML:
        reader = _Html()
        reader.feed(text)
        reader.close()
        title, links = reader.title.strip() or reader.heading.strip(), reader.links
        text = re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"[ \t]+", " ", "".join(reader.parts)))
    elif path.suffix.lower() in _MARKDOWN:
        heading = re.search(r"^#+\s+(.+?)\s*#*$", text, re.M)
        title = heading[1] if heading else ""
        links = [match[2] for match in _LINK.finditer(text)]
        text = _LINK.sub(lambda match: match[1], text)
    return {
        "address": address,
        "title": " ".join(title.split()) or path.stem,
        "text": text.strip(),
        "links": [to for to in (_target(address, link) for link in links) if to],
    }


def _target(address: str, link: str) -> str:
    """Return the address in the corpus that a link leads to, "" for one that leaves it."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return ""
    if parts.scheme or parts.netloc or not parts.path:
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(address), unquote(parts.path)))


class _Html(HTMLParser):
    """Collects title, first heading, visible text and links."""

    _BLOCKS = frozenset(re.findall(r"\w+", "p div br li tr h1 h2 h3 h4 h5 h6 section article table ul ol"))
    _HIDDEN = frozenset(("script", "style", "template", "noscript", "head"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = self.heading = ""
        self.parts: list[str] = []
        self.links: list[str] = []
        self._inside: dict[str, int] = defaultdict(int)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where we are, and a link."""
        self._inside[tag] += 1
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
        if tag == "body":
            self._inside["head"] = 0  # many a page forgets to end it
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """Note where we are."""
        self._inside[tag] = max(0, self._inside[tag] - 1)
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Keep what is seen."""
        if self._inside["title"]:
            self.title += data
        elif not any(self._inside[tag] for tag in self._HIDDEN):
            self.parts.append(data)
            if self._inside["h1"]:
                self.heading += data
