"""The page and its terminal form: whole, self-contained, and drawn by a real browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from palmette.report.html import write_report
from palmette.report.text import duration, print_run
from palmette.run import RunDir

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_everything_and_loads_nothing(run_path: Path):
    target = write_report(run_path)
    page = target.read_text(encoding="utf-8")
    assert target == run_path / "report.html"
    shown = re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)  # not what the run's source was changed by
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", shown))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(link|script|img|iframe)[^>]*\b(src|href)=[\"'](?!data:|#)", page)
    assert "$" not in re.sub(r"<script.*?</script>|<pre>.*?</pre>", "", page, flags=re.DOTALL)  # no slot left open
    assert page.count("<svg") >= 8
    for number in ("81.2", "79.0", "+50.2", "97 %", "11 m 24 s", "6 of 384"):
        assert number in page


def test_what_agents_and_tests_said_cannot_become_markup(run_path: Path):
    page = write_report(run_path).read_text(encoding="utf-8")
    data = data_of(page)
    assert data["total"] == 240
    details = {each["facts"]["detail"] for each in data["rollouts"]}
    assert "expected 'kavo', found 'kav' <b>in</b> answer.txt" in details
    assert "<b>in</b>" not in page


def test_a_run_that_has_just_begun_has_a_page_too(tmp_path: Path):
    run = RunDir.create(tmp_path / "young", 'name = "young"\n', seed=0)
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "No scores yet, the run is new" in page
    assert data_of(page)["rollouts"] == []


def test_the_terminal_form_tells_the_same_story(run_path: Path):
    out = StringIO()
    print_run(run_path, Console(file=out, width=100))
    text = out.getvalue()
    for words in ("81.2", "+52.0", "rl/terminal", "2 m 28 s", "of 240 rollouts", "sandbox_lost", "absent"):
        assert words in text


DURATIONS = [(0.04, "0.0 s"), (59.96, "1 m 00 s"), (61, "1 m 01 s"), (3599.7, "1 h 00 m"), (7380, "2 h 03 m")]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_draws_the_list_and_the_tokens(run_path: Path, tmp_path: Path):
    page = write_report(run_path).read_text(encoding="utf-8")
    of_distil = [each for each in data_of(page)["rollouts"] if each["facts"]["stage"] == "distil"]
    rollout = next(each for each in of_distil if len({node["p"] for node in each["nodes"]}) == len(each["nodes"]))
    press = 'document.dispatchEvent(new KeyboardEvent("keydown", {key: "t"}))'
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{press}</script></body>"), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000", "--dump-dom", f"file://{tmp_path / 'page.html'}#rollout-{rollout['id']}",
    ]  # fmt: skip
    drawn = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True).stdout
    assert drawn.count('role="option"') == len(data_of(page)["rollouts"])
    assert re.search(rf'id="item-{rollout["id"]}"[^>]*aria-selected="true"', drawn)
    tokens = re.findall(r'<i [^>]*title="token (\d+) [^"]*"', drawn)
    path_tokens = sum(len(node["i"]) for node in rollout["nodes"])
    assert [int(number) for number in tokens] == list(range(path_tokens))
    sampled = re.findall(r'title="token \d+ [^"]*sampled · log p [^"]*teacher\'s log p [^"]*advantage', drawn)
    assert len(sampled) > 100
