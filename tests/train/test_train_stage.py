"""Stages: an interrupted one ends with the very weights of one that was not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palmette.run import RunDir
from palmette.train.optim import OptimConfig
from palmette.train.samples import Sample
from palmette.train.sft import SftConfig, sft
from palmette.train.stage import Stage, order

Make = Callable[..., Any]
CONFIG = SftConfig(epochs=4, batch=3, token_budget=64, checkpoint_every=2, optim=OptimConfig(lr=1e-2))


@given(st.integers(0, 9), st.integers(1, 12), st.integers(1, 7), st.integers(1, 20))
def test_order_is_an_endless_row_of_shuffles(seed: int, count: int, size: int, steps: int) -> None:
    drawn = [item for step in range(steps) for item in order(seed, count, step * size, size)]
    assert drawn == order(seed, count, 0, steps * size)
    for start in range(0, len(drawn) - count + 1, count):
        assert sorted(drawn[start : start + count]) == list(range(count))
    assert max(Counter(drawn).values()) - min(Counter(drawn).get(i, 0) for i in range(count)) <= 1


def _stage(run: RunDir, model: Any, count: int) -> Stage:
    return Stage(
        run, "sft/x", model, CONFIG.optim, updates=CONFIG.steps(count), seed=5, checkpoint_every=CONFIG.checkpoint_every
    )


async def test_an_interrupted_stage_ends_alike(tmp_path: Path, tiny_model: Make, random_sample: Make) -> None:
    rng = np.random.default_rng(0)
    samples: list[Sample] = [random_sample(rng, 16) for _ in range(7)]
    weights = []
    for name, stops in (("whole", []), ("broken", [1, 4, 5])):
        run = RunDir.create(tmp_path / name, "", seed=5)
        for stop in stops:
            stage = _stage(run, tiny_model("llama", dtype=torch.float32), len(samples))
            task = asyncio.create_task(sft(stage, samples, CONFIG))
            while stage.step < stop:
                await asyncio.sleep(0.0005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        stage = _stage(run, tiny_model("llama", dtype=torch.float32), len(samples))
        await sft(stage, samples, CONFIG)
        assert stage.step == CONFIG.steps(len(samples)) == 9
        weights.append([p.detach().clone() for p in stage.model.parameters()])
        rows = run.read_metrics("sft/x")
        assert [row["step"] for row in rows] == list(range(1, 10))
    for a, b in zip(*weights, strict=True):
        assert torch.equal(a, b)


async def test_a_finished_stage_does_nothing_more(tmp_path: Path, tiny_model: Make, random_sample: Make) -> None:
    samples = [random_sample(np.random.default_rng(0), 16) for _ in range(3)]
    run = RunDir.create(tmp_path / "r", "", seed=5)
    await sft(_stage(run, tiny_model("llama", dtype=torch.float32), 3), samples, CONFIG)
    again = _stage(run, tiny_model("llama", seed=9, dtype=torch.float32), 3)
    before = [p.detach().clone() for p in again.model.parameters()]
    await sft(again, samples, CONFIG)
    for a, b in zip(before, again.model.parameters(), strict=True):
        assert torch.equal(a, b)
