"""A folder of one's own as the web: what its pages say, where they lead, and what is asked about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palmette.cli import main
from palmette.envs.check import check_tasks
from palmette.envs.search.corpus import corpus_drafts, read_corpus
from palmette.envs.search.serve import Web
from palmette.envs.search.verify import right
from palmette.envs.task import load_tasks, write_task
from palmette.errors import UserError

PAGES = {
    "index.html": "<html><head><title>All &amp; more</title><script>'unseen'</script></head><body><h1>Hello</h1>"
    "<p>See <a href='trees/oak.md'>Oak</a>, <a href='/trees/elm.md#top'>Elm</a> and <a href=https://x.example/>x</a>.",
    "trees/oak.md": "# Oak\n\nAn oak grows [slowly](../index.html). It can be 1,200 years old.\n",
    "trees/elm.md": "# Elm\n\nAn elm is not an [Oak](oak.md); see [away](../../etc/passwd), ![leaf](leaf.png).\n",
    "notes.txt": "plain words",
    "leaf.png": "no page",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, text in PAGES.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "corpus" / "loop.md").symlink_to("loop.md")
    (tmp_path / "corpus" / "secret.txt").symlink_to("/etc/hostname")
    return tmp_path / "corpus"


def test_pages_are_read_with_what_is_seen_and_where_it_leads(corpus: Path):
    pages = {page["address"]: page for page in read_corpus(corpus)}
    assert set(pages) == {"/index.html", "/trees/oak.md", "/trees/elm.md", "/notes.txt"}
    assert pages["/index.html"] == {
        "address": "/index.html",
        "title": "All & more",
        "text": "Hello\nSee Oak, Elm and x.",
        "links": ["/trees/oak.md", "/trees/elm.md"],
    }
    assert pages["/trees/oak.md"]["title"] == "Oak"
    assert "grows slowly." in pages["/trees/oak.md"]["text"]
    assert pages["/trees/oak.md"]["links"] == ["/index.html"]
    assert pages["/trees/elm.md"]["links"] == ["/trees/oak.md"]
    assert pages["/notes.txt"]["title"] == "notes"


def test_a_folder_that_will_not_do_is_one_line(tmp_path: Path):
    for folder, says in ((tmp_path / "none", "is not a folder"), (tmp_path, "holds no page")):
        with pytest.raises(UserError, match=rf"^[^\n]*{says}[^\n]*$"):
            read_corpus(folder)
    (tmp_path / "bomb.html").write_bytes(b"<div>" * (1 << 20))
    with pytest.raises(UserError, match=r"bomb.html is larger than 4 MiB"):
        read_corpus(tmp_path)


def test_a_deeply_nested_page_is_read(tmp_path: Path):
    (tmp_path / "deep.html").write_text("<title>Deep</title>" + "<div>" * 20_000 + "end")
    (page,) = read_corpus(tmp_path)
    assert (page["title"], page["text"]) == ("Deep", "end")


async def test_links_make_questions_with_one_answer(corpus: Path, tmp_path: Path, host: Any):
    (draft,), refused = corpus_drafts(corpus, None, count=5, split="train", seed=0)
    assert not refused
    assert "Oak" in draft.instruction
    assert "Elm" in draft.instruction
    assert right("All & more", json.loads(draft.test_files["expected.json"]))
    (report,) = await check_tasks([write_task(draft, tmp_path / "task")], host, repeats=2)
    assert report.ok, report.reason


async def test_rows_make_tasks_and_bad_ones_are_named(corpus: Path, tmp_path: Path, host: Any, capsys: Any):
    rows = [
        {"question": "How old can an oak be, in years?", "answer": 1200, "page": "/trees/oak.md"},
        {"question": "Which trees are there?", "answer": ["Oak", "Elm"], "kind": "set"},
        {"question": "What grows slowly?", "answer": ["an oak", "oaks"]},
        {"question": "When?", "answer": "3 May 2020", "kind": "date"},
        {"question": "Where?", "answer": "x", "page": "/oak.md"},
        {"question": "What?", "answer": "?"},
        {"question": "", "answer": "x"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    assert main(["tasks", "build", "search", "--from", str(corpus), "--questions", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for line, why in ((4, "must be a date"), (5, "/oak.md is not in"), (6, "must be a text"), (7, "question must")):
        assert any(f"rows.jsonl:{line}: " in each and why in each for each in said.splitlines()), (line, said)
    tasks = load_tasks(out)
    assert [task.source for task in tasks] == ["corpus/corpus"] * 3
    assert [report.reason for report in await check_tasks(tasks, host)] == ["ok"] * 3


def test_long_pages_come_in_parts():
    text = " ".join(f"word{n}" for n in range(1000))
    web = Web([{"address": "/long", "title": "Long", "text": text, "links": ["/x"]}])
    first, told = web.open("/long").rsplit("\n", 1)
    assert told == "[part 1 of 5; the next is /long#2]"
    whole = first + "".join(web.open(f"/long#{n}").partition("\n[part")[0] for n in (2, 3, 4, 5))
    assert whole == f"Long\n{text}\nlinks: /x"
    assert web.open("/long#6") == "error: page /long has 5 parts"
    assert all(len(web.open(f"/long#{n}")) < 2000 for n in (1, 2, 3, 4, 5))


def test_questions_without_pages_are_refused(tmp_path: Path, capsys: Any):
    build = ["tasks", "build", "terminal", "--out", str(tmp_path / "out"), "--questions", "x.jsonl"]
    assert main(build) == 2
    assert "--questions x.jsonl: they are for the domain search" in capsys.readouterr().err
