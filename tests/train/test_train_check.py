"""The self-check tells trees that train like their branches from those that do not; a stage draws the conclusion."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from palmette.model import relay
from palmette.run import RunDir
from palmette.train.check import speed_up, tolerance, tree_error
from palmette.train.config import TrainConfig
from palmette.train.optim import OptimConfig
from palmette.train.samples import Sample, from_demonstration
from palmette.train.sft import Likelihood
from palmette.train.stage import Stage

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    trunk = rng.integers(3, 31, 12)
    ends = [
        [first, *rng.integers(3, 31, length - 1)] for first, length in zip(range(3, 8), (5, 9, 4, 30, 7), strict=True)
    ]
    return [from_demonstration([*trunk, *end], [False] * 6 + [True] * (6 + len(end))) for end in ends]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose what comes back through gateways."""
    monkeypatch.setattr(relay.Relay, "take", lambda self, layer: self._back.pop(layer, None) and None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_right_passes(tiny_model: Make, samples: list[Sample], dtype: torch.dtype) -> None:
    model = tiny_model("qwen3", dtype=dtype)
    assert tree_error(model, samples, Likelihood()) < tolerance(model)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lost_gradients_do_not(tiny_model: Make, samples: list[Sample], broken: None, dtype: torch.dtype) -> None:
    model = tiny_model("qwen3", dtype=dtype)
    assert tree_error(model, samples, Likelihood()) > tolerance(model)


def _stage(path: Path, model: PreTrainedModel, way: TrainConfig) -> Stage:
    run = RunDir.create(path, "", seed=1)
    return Stage(run, "sft/x", model, OptimConfig(lr=1e-3), updates=3, seed=1, checkpoint_every=9, way=way)


async def _weights(path: Path, model: PreTrainedModel, samples: list[Sample], way: TrainConfig) -> tuple[Stage, list]:
    stage = _stage(path, model, way)
    assert not stage.tree  # nothing is scored on trees before the check
    with stage.kept():
        rows = [await stage.advance(lambda _: [samples], Likelihood(), token_budget=40) for _ in range(2)]
    return stage, rows


async def test_a_stage_checks_once_and_trains_on_trees(tmp_path: Path, tiny_model: Make, samples: list[Sample]) -> None:
    trees, flat = tiny_model("qwen3"), tiny_model("qwen3")
    stage, rows = await _weights(tmp_path / "a", trees, samples, TrainConfig(measure=True))
    assert stage.tree
    again = Stage(
        stage.run, stage.name, tiny_model("qwen3"), OptimConfig(lr=1e-3), updates=3, seed=1, checkpoint_every=9
    )
    assert (again.step, again.tree) == (2, True)  # what is scored on trees does not change with an interruption
    assert rows[0]["tree_error"] < 1e-6
    assert rows[0]["tree_speedup"] > 0
    assert "tree_error" not in rows[1]
    assert rows[1]["tree_tokens"] == 12 + 5 + 9 + 4 + 30 + 7
    assert rows[1]["por"] == pytest.approx(1 - 67 / rows[1]["tokens"])
    _, off = await _weights(tmp_path / "b", flat, samples, TrainConfig(tree="off"))
    assert "tree_tokens" not in off[0]
    for ours, theirs in zip(trees.parameters(), flat.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


async def test_a_stage_falls_back_and_says_so(
    tmp_path: Path, tiny_model: Make, samples: list[Sample], broken: None, caplog: pytest.LogCaptureFixture
) -> None:
    trees, flat = tiny_model("qwen3"), tiny_model("qwen3")
    with caplog.at_level(logging.WARNING, "palmette.train"):
        stage, rows = await _weights(tmp_path / "a", trees, samples, TrainConfig())
    assert not stage.tree
    assert rows[0]["tree_error"] > 1e-6
    assert "tree_tokens" not in rows[0]
    assert "train.tree = off" in caplog.text
    await _weights(tmp_path / "b", flat, samples, TrainConfig(tree="off"))
    for ours, theirs in zip(trees.parameters(), flat.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_speed_up_is_measured_and_leaves_nothing(tiny_model: Make, samples: list[Sample]) -> None:
    model = tiny_model("qwen3")
    assert speed_up(model, samples * 4, Likelihood(), 10**6) > 0
    assert all(p.grad is None for p in model.parameters())
