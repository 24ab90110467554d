"""Proves, over real HTTP: a judge with eyes is asked twice in swapped order, a side-taker decides nothing, and an
endpoint that answers badly is one clear line."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from palmette.envs.web.vision import VisionJudge
from palmette.errors import UserError

GOOD, BAD = b"\x89PNG good", b"\x89PNG bad"
Answer = Callable[[list[bytes]], object]


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict[str, Answer], list[dict]]]:
    """An endpoint whose answer is a function of the two pictures."""
    answers: dict[str, Answer] = {}
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"path": self.path, "key": self.headers["authorization"], **body})
            urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
            said = answers["now"]([base64.b64decode(url.partition("base64,")[2]) for url in urls])
            data = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", answers, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_better_page_wins_on_either_side(endpoint) -> None:
    url, answers, asked = endpoint
    answers["now"] = lambda pictures: "The better one is " + "AB"[pictures.index(GOOD)]
    judge = VisionJudge(url, "eyes", key="k")
    assert judge.compare("a shop", GOOD, BAD).first == 1.0
    lost = judge.compare("a shop", BAD, GOOD)
    assert (lost.first, lost.answers, lost.steady) == (0.0, ("B", "A"), True)
    assert len(asked) == 4
    assert {(each["path"], each["key"], each["model"]) for each in asked} == {
        ("/v1/chat/completions", "Bearer k", "eyes")
    }
    assert "a shop" in asked[0]["messages"][0]["content"][0]["text"]


def test_who_always_takes_a_side_decides_nothing(endpoint) -> None:
    url, answers, _ = endpoint
    answers["now"] = lambda _: "A"
    drawn = VisionJudge(url, "eyes").compare("a shop", GOOD, BAD)
    assert (drawn.first, drawn.steady) == (0.5, False)
    answers["now"] = lambda _: "T"
    tie = VisionJudge(url, "eyes").compare("a shop", GOOD, BAD)
    assert (tie.first, tie.steady) == (0.5, True)


@pytest.mark.parametrize("said", ["neither", None, 3])
def test_an_answer_that_is_none_is_one_line(endpoint, said: object) -> None:
    url, answers, _ = endpoint
    answers["now"] = lambda _: said
    with pytest.raises(UserError, match="neither A, B nor T"):
        VisionJudge(url, "eyes").compare("a shop", GOOD, BAD)


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(UserError, match="no judgement came back"):
        VisionJudge("http://127.0.0.1:9/v1", "eyes").compare("a shop", GOOD, BAD)
