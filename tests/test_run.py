"""The run directory: whole or not at all, one worker at a time, and nothing lost by a crash."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from pydantic import BaseModel

from palmette import run as run_module
from palmette.errors import UserError
from palmette.run import RunDir, seed_everything, write_atomic


class Config(BaseModel):
    seed: int = 0


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir.create(tmp_path / "runs" / "demo", Config(seed=3), seed=3)


def test_create_writes_all_that_is_promised(run):
    assert (run.path / "config.toml").read_text() == "seed = 3  # default: 0\n"
    assert run.seed == 3
    assert "palmette" in (run.path / "git.txt").read_text()
    assert {path.name for path in run.path.iterdir()} == {
        "config.toml", "git.txt", "seed", "stages", "logs", "trees", "checkpoints",
    }  # fmt: skip
    assert run.state == "new"
    assert [path.name for path in run.path.parent.iterdir()] == ["demo"]


def test_create_never_takes_the_place_of_a_run(run):
    with pytest.raises(UserError, match="is there already"):
        RunDir.create(run.path, Config(), seed=1)
    assert run.seed == 3
    assert [path.name for path in run.path.parent.iterdir()] == ["demo"]


def test_open_suggests_the_nearest_run(run):
    assert RunDir.open(run.path).seed == 3
    with pytest.raises(UserError, match=r"demmo does not exist; did you mean 'demo'\?"):
        RunDir.open(run.path.with_name("demmo"))
    with pytest.raises(UserError, match="is not a run directory"):
        RunDir.open(run.path / "logs")


def test_attempts_are_numbered_and_end_as_they_ended(run):
    with run.attempt() as first:
        assert (first.name, run.log_dir) == ("attempt_1", first)
        assert RunDir.open(run.path).state == "running"
    assert run.state == "finished"
    with pytest.raises(KeyboardInterrupt), run.attempt() as second:
        raise KeyboardInterrupt
    assert (second.name, run.state) == ("attempt_2", "interrupted")
    with pytest.raises(ZeroDivisionError), run.attempt() as third:
        print(1 / 0)
    assert run.state == "failed"
    assert json.loads((third / "attempt.json").read_text())["error"] == "ZeroDivisionError: division by zero"
    assert run.log_dir == third


HOLD = """
import sys, time
from palmette.run import RunDir
run = RunDir.open(sys.argv[1])
with run.attempt():
    (run.path / "held").touch()
    time.sleep(60)
"""


def test_one_worker_at_a_time_and_a_dead_one_leaves_no_lock(run):
    worker = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)])
    while not (run.path / "held").exists():
        time.sleep(0.02)
        assert worker.poll() is None
    assert run.state == "running"
    with pytest.raises(UserError, match=f"is being worked on by process {worker.pid} "), run.attempt():
        pass
    worker.kill()
    worker.wait()
    assert run.state == "interrupted"
    with run.attempt() as log_dir:
        assert log_dir.name == "attempt_2"


def test_metrics_are_one_row_a_step_and_later_values_win(run):
    run.metrics("sft/swe", 0, loss=np.float32(0.5), note="a")
    run.metrics("rl/swe", 0, reward=float("nan"))
    run.metrics("sft/swe", 1, loss=0.25)
    run.metrics("sft/swe", 1, loss=0.125, grad=2)
    rows = run.read_metrics()
    assert [(row["stage"], row["step"]) for row in rows] == [("sft/swe", 0), ("rl/swe", 0), ("sft/swe", 1)]
    assert (rows[0]["loss"], rows[0]["note"], rows[1]["reward"]) == (0.5, "a", None)
    assert run.read_metrics("sft/swe")[1] == {**rows[2], "loss": 0.125, "grad": 2}


def test_a_torn_line_spoils_nothing(run):
    run.metrics("sft", 0, loss=1.0)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "sft", "st')
    assert len(run.read_metrics()) == 1
    with run.attempt():
        run.metrics("sft", 1, loss=0.5)
    assert [row["loss"] for row in run.read_metrics()] == [1.0, 0.5]
    assert all(json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())


def test_stages(run):
    assert not run.stage_done("sft/swe")
    with pytest.raises(ValueError, match="has not finished"):
        run.stage_summary("sft/swe")
    run.finish_stage("sft/swe", {"loss": 0.5})
    run.finish_stage("base", {})
    assert run.stage_done("sft/swe")
    assert not run.stage_done("sft")
    assert RunDir.open(run.path).stage_summary("sft/swe") == {"loss": 0.5}
    assert run.stages() == ["sft/swe", "base"]
    for bad in ("", "../x", "/abs", "a//b", "a/..", ".hidden"):
        with pytest.raises(ValueError, match="not a stage name"):
            run.stage_done(bad)


def test_write_atomic_replaces_or_leaves_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "half")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.txt"]


def test_seeds_reach_every_generator():
    import torch

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(5)
    first = draw()
    seed_everything(6)
    other = draw()
    seed_everything(5)
    assert draw() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_importing_the_run_directory_is_light():
    code = "import palmette.run, sys; assert not {'torch', 'transformers', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
