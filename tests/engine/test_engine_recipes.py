"""Recipes whose rollouts are sampled by a server elsewhere, over real HTTP, the server's weights its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from palmette.engine.api import EngineError, Sampling
from palmette.engine.local import LocalEngine
from palmette.errors import UserError
from palmette.model.load import load_model, resolve_model
from palmette.rollout.record import load_rollouts
from palmette.run import RunDir
from palmette.train.config import TrainConfig
from palmette.train.pipeline import run_pipeline
from palmette.train.recipe import Recipe
from palmette.train.workplace import open_workplace
from palmette.trajectory.store import TreeStore

Serve = Callable[..., Awaitable[Any]]


def shifted_engine() -> LocalEngine:
    """Return an engine with the embedded model's shape and weights that are not its: what a server starts with."""
    model = load_model(resolve_model("palmette:base"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return LocalEngine(model, stop_ids=(), threads=1)


def recipe_for(kind: str, port: int, weights: Path, **more: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "domains": ["terminal"],
            "stages": ["rl"],
            "tasks": {"terminal": {"train": 2, "heldout": 2, "tiers": [1]}},
            "rl": {"groups": 2, "samples": 3, "steps": 2, "checkpoint_every": 1},
            "train": TrainConfig(tree="off"),
            "concurrency": 4,
            "max_tokens": 48,
            "engine": {"kind": kind, "url": f"http://127.0.0.1:{port}", "weights_dir": str(weights)},
        }
        | more
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_recipe_trains_behind_a_server_that_takes_every_steps_weights(
    serve: Serve, tmp_path: Path, kind: str
) -> None:
    fake = await serve(kind, shifted_engine(), weights=tmp_path / "shared")
    recipe = recipe_for(kind, fake.port, tmp_path / "shared")
    run = RunDir.create(tmp_path / "run", recipe, seed=0)
    await run_pipeline(recipe, run)
    assert (tmp_path / "shared" / "config.json").is_file()
    # base, two steps of training (before and after each), expert: what the server has is what was trained last
    ids = list(range(40, 90))
    trained = LocalEngine(load_model(run.path / "models" / "expert-terminal"), stop_ids=(), threads=1)
    assert await fake.engine.score(ids) == pytest.approx(await trained.score(ids), abs=1e-5)
    before = LocalEngine(load_model(resolve_model("palmette:base")), stop_ids=(), threads=1)
    assert await fake.engine.score(ids) != pytest.approx(await before.score(ids), abs=1e-5)
    for engine in (trained, before):
        await engine.close()
    versions = []
    for rollout, metadata in load_rollouts(TreeStore(run.path / "trees"), stage="rl/terminal"):
        told = {int(version) for branch in rollout.tree.branches() for version in branch.version[branch.sampled]}
        assert len(told) == 1, "no rollout spans a change of weights"
        versions.append((metadata["step"], told.pop()))
    assert sorted(set(versions)) == [(1, 2), (2, 3)]
    assert run.read_metrics("rl/terminal")[0]["rollouts"] == 6


async def test_a_server_that_reads_something_else_is_found_out(serve: Serve, tmp_path: Path) -> None:
    fake = await serve("sglang", shifted_engine(), weights=tmp_path / "shared")

    async def deaf(version: int) -> None:
        """Say that the weights were read."""

    fake.reload = deaf
    recipe = recipe_for("sglang", fake.port, tmp_path / "shared")
    run = RunDir.create(tmp_path / "run", recipe, seed=0)
    async with open_workplace(recipe, run) as place:
        with pytest.raises(UserError, match="does not answer with the weights it was given"):
            await place.serve(load_model(place.model_dir))


async def test_weights_that_others_change_are_an_engine_error(serve: Serve, tmp_path: Path) -> None:
    fake = await serve("sglang", shifted_engine(), weights=tmp_path / "shared")
    recipe = recipe_for("sglang", fake.port, tmp_path / "shared")
    run = RunDir.create(tmp_path / "run", recipe, seed=0)
    async with open_workplace(recipe, run) as place:
        await place.serve(load_model(place.model_dir))
        fake.version = "7"
        with pytest.raises(EngineError, match="somebody else changed the weights"):
            await place.engine.complete([5, 6, 7], Sampling(max_tokens=2))


async def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    recipe = recipe_for("vllm", 9, tmp_path / "shared")
    run = RunDir.create(tmp_path / "run", recipe, seed=0)
    with pytest.raises(UserError, match=r"no engine at http://127\.0\.0\.1:9") as caught:
        await asyncio.wait_for(run_pipeline(recipe, run), 60)
    assert "\n" not in str(caught.value)
