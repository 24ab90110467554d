"""Proves: the demo's own recipe, shrunken, goes from tasks to an evaluated student with the shipped model, and resumes.

It is the demo through the very same command and code, with fewer tasks and steps.
"""

import json
import re
from pathlib import Path

import pytest

from palmette.cli import main
from palmette.envs.names import DOMAINS
from palmette.envs.web.judge.browser import MISSING, find_browser
from palmette.model.load import resolve_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHRUNKEN = {
    "tasks.terminal.train": 12,
    "tasks.terminal.heldout": 8,
    "tasks.swe.train": 8,
    "tasks.swe.heldout": 6,
    "tasks.web.train": 5,
    "tasks.web.heldout": 3,
    "tasks.search.train": 8,
    "tasks.search.heldout": 4,
    "tasks.general.train": 8,
    "tasks.general.heldout": 4,
    "eval.samples": 1,
    "sft.epochs": 1,
    "rl.steps": 2,
    "rl.groups": 3,
    "rl.samples": 4,
    "distil.steps": 2,
    "distil.groups": 5,
    "distil.samples": 2,
    "baselines": '["by_evidence"]',  # and what the demo leaves to longer recipes
    "eval.experts_everywhere": "true",
}


@pytest.mark.skipif(not find_browser(), reason=MISSING)
def test_the_demo_in_a_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for key, value in SHRUNKEN.items() for part in ("--set", f"{key}={value}")]
    assert main(["run", "recipes/demo.toml", "--runs", str(tmp_path), *settings]) == 0
    made = tmp_path / "demo"
    summary = json.loads((made / "summary.json").read_text())
    assert set(summary["domains"]) == set(DOMAINS)
    for scores in summary["domains"].values():
        for column in ("base", "sft", "expert", "by_evidence", "student"):
            assert 0.0 <= scores[column] <= 1.0
    assert {expert: set(found) for expert, found in summary["experts_elsewhere"].items()} == {
        expert: set(DOMAINS) - {expert} for expert in DOMAINS
    }
    believed = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    told = [row for row in believed if row["stage"] == "distil/by_evidence"]
    assert [row["step"] for row in told] == [1, 2]
    for row in told:
        asked = [domain for domain in DOMAINS if f"trusts/{domain}/{domain}" in row]
        assert asked
        for domain in asked:
            assert sum(row[f"trusts/{domain}/{teacher}"] for teacher in DOMAINS) == pytest.approx(1)
    assert summary["tasks_held_out"] == 25
    assert "student" in capsys.readouterr().out
    assert (made / "result.png").stat().st_size > 10_000
    page = (made / "report.html").read_text()
    assert "terminal/heldout-00000" in page
    assert not re.search(r"(?:src|href)=.?https?:|url\(.?https?:", page)  # self-contained
    for model in ("student", *(f"{kind}-{domain}" for kind in ("sft", "expert") for domain in DOMAINS)):
        assert resolve_model(str(made / "models" / model)).is_dir()
    before = (made / "metrics.jsonl").read_bytes()
    assert main(["resume", str(made)]) == 0  # every stage is finished: nothing is done again
    assert (made / "metrics.jsonl").read_bytes() == before


def test_the_embedded_base_solves_some_tasks_and_not_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "palmette:base", "--tasks", "terminal", "--count", "24", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    score = answer["domains"]["terminal"]["pass_1"]
    assert 0.05 < score < 0.95
