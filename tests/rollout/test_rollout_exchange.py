"""Runs leave in other tools' formats and come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palmette.cli import main
from palmette.rollout.outcomes import Outcome
from palmette.rollout.record import load_rollouts, save_rollouts
from palmette.rollout.run import Rollout
from palmette.run import RunDir
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree


def _rollout(task: str, sample: int, patch: str | None) -> Rollout:
    tree = Tree()
    leaf = tree.commit([1, 2, sample], [4, 5], [-0.5, -0.25], 3)
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "do", "turn": 0, "parent": None},
        {"role": "assistant", "content": "ok", "turn": 0, "parent": 0, "prompt_tokens": 3, "completion_tokens": 2,
         "leaf": leaf},
    ]  # fmt: skip
    return Rollout(
        task=task, domain="swe", group=0, sample=sample, outcome=Outcome.OK, reward=1.0, tree=tree, turns=1,
        sampled_tokens=2, wall_s=1.0, conversation=said, detail="", attempt=1, patch=patch,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "runs" / "one", 'kind = "x"\n')
    rollouts = [_rollout("org__a-1", 0, "diff a"), _rollout("org__a-1", 1, None), _rollout("org__b-2", 0, "")]
    save_rollouts(TreeStore(run.path / "trees"), rollouts, stage="evaluate", model="base")
    return run


def test_atif_goes_out_and_comes_in(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, runs = tmp_path / "atif", tmp_path / "runs"
    assert main(["export", str(run.path), "--format", "atif", "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 3
    assert main(["import", str(out), "--name", "two", "--runs", str(runs)]) == 0
    assert "3 rollouts" in capsys.readouterr().out
    there = [(r.task, r.sample, [b.token_ids.tolist() for b in r.tree.branches()]) for r, _ in
             load_rollouts(TreeStore(run.path / "trees"))]  # fmt: skip
    back = list(load_rollouts(TreeStore(runs / "two" / "trees"), exact=True, stage="import"))
    assert sorted((r.task, r.sample, [b.token_ids.tolist() for b in r.tree.branches()]) for r, _ in back) == there
    assert main(["import", str(out), "--name", "two", "--runs", str(runs)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_predictions_are_one_line_an_instance(run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "p" / "predictions.jsonl"
    assert main(["export", str(run.path), "--format", "swebench", "--out", str(out), "--model", "me"]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"instance_id": "org__a-1", "model_name_or_path": "me", "model_patch": "diff a"},
        {"instance_id": "org__b-2", "model_name_or_path": "me", "model_patch": ""},
    ]


def test_lines_hold_every_branch(run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    assert main(["export", str(run.path), "--format", "jsonl", "--out", str(out), "--stage", "evaluate"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["branches"] for line in lines] == [
        [{"token_ids": [1, 2, k, 4, 5], "sampled": [False] * 3 + [True] * 2, "logprob": [0, 0, 0, -0.5, -0.25],
          "version": [-1, -1, -1, 3, 3]}] for k in (0, 1, 0)
    ]  # fmt: skip
    assert lines[0]["model"] == "base"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "{run}", "--format", "xml", "--out", "o"], "--format xml"),
        (["export", "{run}", "--format", "atif", "--out", "o", "--stage", "rl"], "of the stage rl"),
        (["import", "{run}/config.toml", "--runs", "{tmp}"], "is no JSON"),
        (["import", "{tmp}/nothing.json", "--runs", "{tmp}"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    run: RunDir, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([one.format(run=run.path, tmp=tmp_path) for one in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "import").exists()
