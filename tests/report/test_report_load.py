"""What is read of a run directory, while it runs and afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palmette.errors import UserError
from palmette.report.load import load_run, told_of_trees
from palmette.run import RunDir


def test_series_keep_steps_and_leave_out_what_is_no_number(tmp_path: Path):
    run = RunDir.create(tmp_path / "r", "[model]\n", seed=0)
    run.metrics("rl/swe", 1, success=0.25, note="hello", loss=float("nan"))
    run.metrics("rl/swe", 2, success=None, loss=0.5)
    run.metrics("rl/swe", 3, success=0.75, done=True)
    run.metrics("sft/swe", 1, loss=9.0)
    series = {each.name: each for each in load_run(run.path).series("rl/swe")}
    assert set(series) == {"success", "loss"}
    assert (series["success"].steps_T, series["success"].values_T) == ((1, 3), (0.25, 0.75))
    assert (series["loss"].steps_T, series["loss"].values_T) == ((2,), (0.5,))


def test_stages_take_as_long_as_they_say_or_as_their_metrics_span(tmp_path: Path):
    run = RunDir.create(tmp_path / "r", "", seed=0)
    run.finish_stage("tasks", {"seconds": 12.5})
    rows = [
        {"time": 1000.0, "stage": "rl", "step": 1, "success": 0.1},
        {"time": 1007.5, "stage": "rl", "step": 2, "success": 0.2},
        {"time": "2025-11-21T10:00:00+00:00", "stage": "old", "step": 1},
        {"time": "2025-11-21T10:01:30+00:00", "stage": "old", "step": 4},
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = {stage.name: stage for stage in load_run(run.path).stages}
    assert [(s.seconds, s.steps, s.finished) for s in stages.values()] == [
        (12.5, 0, True),
        (7.5, 2, False),
        (90.0, 4, False),
    ]


def test_a_finished_run_gives_its_scores(run_path: Path):
    run = load_run(run_path)
    assert run.tasks_held_out == 128
    assert run.domains["swe"]["student"] == 0.79
    assert [model for model, _ in run.evaluations()] == ["base", "expert", "student"]


def test_what_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        load_run(tmp_path / "nowhere")


def test_a_stage_tells_what_trees_saved(tmp_path: Path):
    run = RunDir.create(tmp_path / "r", "", seed=0)
    run.metrics("rl/swe", 1, por=0.75, tree_speedup=3.21, tree_error=1e-6)
    run.metrics("rl/swe", 2, por=0.65)
    run.metrics("sft/swe", 1, por=0.5)
    run.metrics("sft/off", 1, loss=1.0)
    record = load_run(run.path)
    told = {stage: told_of_trees(record, stage) for stage in ("rl/swe", "sft/swe", "sft/off")}
    assert told == {"rl/swe": "70 % shared, 3.2x", "sft/swe": "50 % shared", "sft/off": ""}
