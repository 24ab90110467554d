"""Proves: a task phrased otherwise has the same files and verifier, and never loses what the verifier looks for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest

from palmette.commands.convert import rephrase_all
from palmette.envs.api import INTENTS
from palmette.envs.build import build_tasks
from palmette.envs.intent import model_rewriter, needed, rephrase
from palmette.envs.names import DOMAINS
from palmette.envs.task import load_task, load_tasks, set_metadata
from palmette.errors import UserError


def content(root: Path) -> dict[str, bytes]:
    told = {"instruction.md", "task.toml"}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in told
    }


@pytest.mark.parametrize("name", DOMAINS)
def test_every_level_says_what_is_needed_and_changes_nothing_else(name: str, tmp_path: Path) -> None:
    tasks = build_tasks(name, tmp_path / "in", count=8, tiers=DOMAINS[name].tiers, split="train", seed=4)
    for task in tasks:
        said = set()
        for level in INTENTS:
            other = rephrase(task, level, tmp_path / level / task.path.name)
            assert content(other.path) == content(task.path)
            assert (other.intent, other.name, other.skills) == (level, task.name, task.skills)
            own = (task.path / "phrasings").is_dir()
            assert own or all(part in other.instruction for part in needed(task))
            said.add(other.instruction)
        assert len(said) == len(INTENTS)
        assert task.instruction in said


def test_what_the_verifier_looks_for_is_needed(tmp_path: Path) -> None:
    (task,) = build_tasks("terminal", tmp_path, count=1, tiers=[4], split="train", seed=4)
    paths = {word.strip(".,:") for word in task.instruction.split() if "." in word.strip(".,:")}
    assert paths
    assert paths <= needed(task)


@contextmanager
def answering(text: str) -> Iterator[str]:
    """Serve one chat completion again and again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(orjson.dumps({"choices": [{"message": {"content": text}}]}))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_model_may_rewrite_but_not_forget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (task,) = build_tasks("terminal", tmp_path / "in", count=1, tiers=[1], split="train", seed=4)
    with answering(f"yo: {task.instruction}") as url:
        other = rephrase(task, "colloquial", tmp_path / "x", rewriter=model_rewriter(url, "m"))
        assert other.instruction == f"yo: {task.instruction}"
    with answering("just do it") as url:
        assert rephrase_all(tmp_path / "in", "colloquial", tmp_path / "y", url=url, model="m") == 1
    assert "no longer says" in capsys.readouterr().out
    assert not any((tmp_path / "y").glob("*"))
    with pytest.raises(UserError, match="no rewriting came back"):
        rephrase(task, "colloquial", tmp_path / "z", rewriter=model_rewriter("http://127.0.0.1:9/v1", "m"))


def test_bad_levels_and_half_an_endpoint_are_refused(tmp_path: Path) -> None:
    (task,) = build_tasks("swe", tmp_path / "in", count=1, tiers=[1], split="train", seed=4)
    with pytest.raises(UserError, match="did you mean 'request'"):
        rephrase(task, "requst", tmp_path / "x")
    with pytest.raises(UserError, match="exists already"):
        rephrase(task, "request", tmp_path / "in")
    with pytest.raises(UserError, match="belong together"):
        rephrase_all(tmp_path / "in", "request", tmp_path / "x", url="http://x", model="")


def test_metadata_is_set_and_everything_else_stays(tmp_path: Path) -> None:
    build_tasks("terminal", tmp_path, count=1, tiers=[1], split="train", seed=4)
    (task,) = load_tasks(tmp_path)
    before = (task.path / "task.toml").read_text().splitlines()
    set_metadata(task.path / "task.toml", {"pass_rate": 0.25, "rated_by": "me", "tier": 9})
    after = (task.path / "task.toml").read_text().splitlines()
    again = load_task(task.path)
    assert (again.complexity.pass_rate, again.complexity.rated_by, again.tier) == (0.25, "me", 9)
    assert sorted(set(before) - set(after)) == ["tier = 1"]
    (tmp_path / "plain.toml").write_text('[task]\nname = "x"\n')
    set_metadata(tmp_path / "plain.toml", {"intent": "request"})
    assert (tmp_path / "plain.toml").read_text() == '[task]\nname = "x"\n\n[metadata]\nintent = "request"\n'
