"""Checkpoints: the next step after a resume is bit for bit the step that would have come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palmette.errors import UserError
from palmette.train import checkpoint
from palmette.train.optim import OptimConfig, Optimiser
from palmette.train.sft import Likelihood
from palmette.train.step import train_step

Make = Callable[..., Any]
CONFIG = OptimConfig(lr=1e-2, warmup=0.3, weight_decay=0.1)


def _step(model: Any, optimiser: Optimiser, generator: np.random.Generator, random_sample: Make) -> dict[str, float]:
    samples = [random_sample(generator, 12) for _ in range(3)]
    row = train_step(model, optimiser, samples, Likelihood(), token_budget=40)
    return {key: value for key, value in row.items() if key != "tokens_per_s"}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "qwen3_moe"])
def test_resume_is_bit_identical(architecture: str, tmp_path: Path, tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model(architecture, dtype=torch.float32)
    optimiser, generator = Optimiser(model, CONFIG, 10), np.random.default_rng(7)
    for _ in range(3):
        _step(model, optimiser, generator, random_sample)
    position = checkpoint.Position(step=3, version=5, store_offset=12, extra={"seen": [1, 2]})
    path = checkpoint.save(tmp_path, model, optimiser, generator, position)
    draw = torch.rand(3)
    rows = [_step(model, optimiser, generator, random_sample) for _ in range(2)]

    other = tiny_model(architecture, seed=99, dtype=torch.float32)
    other_optimiser, other_generator = Optimiser(other, CONFIG, 10), np.random.default_rng(0)
    assert checkpoint.load(path, other, other_optimiser, other_generator) == position
    assert torch.equal(torch.rand(3), draw)
    assert [_step(other, other_optimiser, other_generator, random_sample) for _ in range(2)] == rows
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def _empty(folder: Path, model: Any, step: int) -> Path:
    optimiser = Optimiser(model, CONFIG, 10)
    position = checkpoint.Position(step=step, version=0)
    return checkpoint.save(folder, model, optimiser, np.random.default_rng(0), position)


def test_latest_ignores_what_is_not_whole_and_old_ones_go(tmp_path: Path, tiny_model: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    assert checkpoint.latest(tmp_path / "none") is None
    for step in (1, 2, 10):
        _empty(tmp_path, model, step)
    (tmp_path / ".step_00011.123").mkdir()
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert newest.name == "step_00010"
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00002", "step_00010"]


def test_another_architecture_is_refused_in_one_line(tmp_path: Path, tiny_model: Make) -> None:
    path = _empty(tmp_path, tiny_model("llama", dtype=torch.float32), 1)
    other = tiny_model("qwen3_moe", dtype=torch.float32)
    with pytest.raises(UserError, match="another architecture") as caught:
        checkpoint.load(path, other, Optimiser(other, CONFIG, 10), np.random.default_rng(0))
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_named(tmp_path: Path, tiny_model: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    path = _empty(tmp_path, model, 1)
    (path / "weights.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(path, model, Optimiser(model, CONFIG, 10), np.random.default_rng(0))
