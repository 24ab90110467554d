"""MCLA: independent draws cut the variance by their number, whatever is asked for twice is drawn once, and a steady
engine is not asked again; old log-probs, mismatches and gates are those the recipe names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from palmette.engine.local import LocalEngine
from palmette.engine.noise import Noise
from palmette.errors import UserError
from palmette.run import RunDir
from palmette.train.draws import Draws, DrawsConfig, by_engine, effective_draws, unit_variance
from palmette.train.old import by_trainer, with_old
from palmette.train.policy import OnPolicyConfig
from palmette.train.samples import Sample
from palmette.train.score import score_samples
from palmette.train.stage import Stage

Make = Callable[..., Any]


class _Noisy:
    """An engine whose log-probs are 0 and normal noise; `seen` are the batches in which it was asked."""

    def __init__(self, var: float) -> None:
        self._rng, self._std = np.random.default_rng(0), var**0.5
        self.seen: list[list[int]] = []

    async def score(self, samples: Sequence[Sample], rng: np.random.Generator) -> list[np.ndarray]:
        await asyncio.sleep(0)
        self.seen.append([int(sample.token_ids_T[0]) for sample in samples])
        return [self._rng.normal(0, self._std, sample.num_sampled) for sample in samples]


def _samples(count: int = 6, length: int = 400) -> list[Sample]:
    sampled_T = np.arange(length) > 0
    return [
        Sample(token_ids_T=np.full(length, number), sampled_T=sampled_T, turns=((1, length),))
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [2, 4, 8, 16])
async def test_the_mean_of_k_draws_has_a_kth_of_the_variance(count: int) -> None:
    samples, engine = _samples(), _Noisy(1e-3)
    estimate = await Draws(engine.score, DrawsConfig(count=count), 0).take(samples)
    found = np.concatenate([row[1:] for row in estimate.logprob]).var()
    assert found == pytest.approx(1e-3 / count, rel=0.15)
    assert estimate.metrics["draw_var"] == pytest.approx(1e-3, rel=0.15)
    assert estimate.metrics["effective_draws"] == pytest.approx(count, rel=0.2)
    assert estimate.metrics["draws"] == count == len(engine.seen)
    assert estimate.metrics["drawn_tokens"] == count * 2400
    assert all(row[0] == 0 for row in estimate.logprob)


async def test_probabilities_are_averaged_where_asked() -> None:
    samples = _samples()
    rows = {}
    for mean in ("log", "prob"):
        estimate = await Draws(_Noisy(0.25).score, DrawsConfig(count=16, mean=mean), 0).take(samples)  # type: ignore[arg-type]
        rows[mean] = float(np.concatenate([row[1:] for row in estimate.logprob]).mean())
    assert rows["log"] == pytest.approx(0, abs=0.01)
    assert rows["prob"] == pytest.approx(0.25 / 2, rel=0.15)  # biased up by var / 2, as log-normal means are


async def test_auto_draws_until_the_noise_fits(caplog: pytest.LogCaptureFixture) -> None:
    config = DrawsConfig(count="auto", most=12)
    for var, budget, expected in ((1e-3, 2e-4, 5), (1e-3, 1e-2, 2), (1e-3, 1e-6, 12)):
        engine = _Noisy(var)
        estimate = await Draws(engine.score, config, 0).take(_samples(40), variance=1.0, budget=budget)
        assert abs(estimate.metrics["draws"] - expected) <= 1
        assert len(engine.seen) == estimate.metrics["draws"]
    assert not caplog.records


async def test_a_steady_engine_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = _Noisy(0.0)
    draws = Draws(engine.score, DrawsConfig(count=8), 0)
    assert (await draws.take(_samples())).metrics["draws"] == 2  # to find out
    assert (await draws.take(_samples())).metrics["draws"] == 1
    assert len(engine.seen) == 3
    assert [record.message for record in caplog.records] == [
        "the engine says the same in every pass: one draw is as good as many, and one is made"
    ]


async def test_what_was_begun_early_is_not_drawn_again() -> None:
    samples, engine = _samples(), _Noisy(1e-3)
    draws = Draws(engine.score, DrawsConfig(count=3), 0)
    draws.begin(samples[:2])
    estimate = await draws.take([*samples, samples[0]])
    assert len(estimate.logprob) == 7
    np.testing.assert_array_equal(estimate.logprob[0], estimate.logprob[6])
    assert sorted(number for batch in engine.seen for number in batch) == sorted([*range(6)] * 3)
    await draws.take(samples[:1])  # the weights are others now
    assert engine.seen[-3:] == [[0]] * 3


async def test_closing_stops_what_is_under_way() -> None:
    draws = Draws(_Noisy(1.0).score, DrawsConfig(count=1_000_000), 0)
    draws.begin(_samples())
    await asyncio.sleep(0.01)
    await asyncio.wait_for(draws.close(), 5)


def test_draws_that_share_their_noise_with_a_neighbour_count_half() -> None:
    rng = np.random.default_rng(0)
    alone = rng.normal(size=(8, 20_000))
    assert effective_draws([alone]) == pytest.approx(8, rel=0.1)
    assert effective_draws([np.repeat(alone[:4], 2, 0)]) == pytest.approx(4 * 6 / 7, rel=0.1)  # ddof sees seven
    assert effective_draws([alone[:2]]) == 2
    assert effective_draws([np.repeat(alone[:1], 8, 0)]) == 1


def test_a_product_has_more_noise_and_a_mean_less() -> None:
    sampled_T = np.array([0, 1, 1, 0, 1, 1, 1, 1], bool)
    sample = Sample(token_ids_T=np.arange(8), sampled_T=sampled_T, turns=((1, 3), (4, 8)))
    assert unit_variance([sample], "token", "product") == 1
    assert unit_variance([sample], "turn", "product") == 3
    assert unit_variance([sample], "turn", "geometric_mean") == (1 / 2 + 1 / 4) / 2
    assert unit_variance([sample], "sequence", "product") == 6


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_draw_is_refused(count: int) -> None:
    with pytest.raises(ValidationError, match="must be at least 1"):
        DrawsConfig(count=count)


def _stage(tmp_path: Path, model: Any) -> Stage:
    config = OnPolicyConfig()
    return Stage(
        RunDir.create(tmp_path / "r", "", seed=1), "rl/x", model, config.optim, updates=1, seed=1, checkpoint_every=1
    )


OLD = ["recorded", "recompute", "monte_carlo"]


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("against", ["recorded", "monte_carlo"])
async def test_old_and_mismatch_are_what_the_recipe_names(
    old: Any, against: Any, tmp_path: Path, tiny_model: Make, random_sample: Make
) -> None:
    """A real engine whose numbers are off by noise of a known variance, and the model itself as trainer."""
    model = tiny_model("qwen3_moe", dtype=torch.float32)
    rng = np.random.default_rng(3)
    samples = [random_sample(rng, 60) for _ in range(12)]
    engine = LocalEngine(tiny_model("qwen3_moe", dtype=torch.float32), stop_ids=[2], noise=Noise(logprob_var=0.04))
    config = OnPolicyConfig(
        old_logprob=old, gate="icepop", gate_against=against, draws=DrawsConfig(count=16), token_budget=200
    )
    stage = _stage(tmp_path, model)
    try:
        filled, metrics = await with_old(stage, samples, config, Draws(by_engine(engine), config.draws, 0))
    finally:
        await engine.close()
    exact = score_samples(model, samples, 1000, tree=False)
    mask = np.concatenate([s.sampled_T for s in samples])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(s, name) for s in filled])[mask].astype(float)

    exact_M = np.concatenate(exact)[mask]
    recorded_M = np.concatenate([s.logprob_T for s in samples])[mask]
    if old == "monte_carlo":
        assert (joined("old_logprob_T") - exact_M).var() == pytest.approx(0.04 / 16, rel=0.25)
    else:
        np.testing.assert_allclose(
            joined("old_logprob_T"), {"recorded": recorded_M, "recompute": exact_M}[old], atol=1e-5
        )
    if against == "recorded":
        np.testing.assert_allclose(joined("mismatch_T"), exact_M - recorded_M, atol=1e-5)
    else:
        assert joined("mismatch_T").var() == pytest.approx(0.04 / 16, rel=0.25)
    delta = exact_M - recorded_M
    assert metrics["mismatch_kl"] == pytest.approx(float((np.expm1(delta) - delta).mean()), rel=1e-4)
    assert ("draws" in metrics) == ("monte_carlo" in (old, against))


async def test_the_training_model_is_steady_and_right(tmp_path: Path, tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model("qwen3", dtype=torch.float32)
    samples = [random_sample(np.random.default_rng(3), 40) for _ in range(5)]
    stage = _stage(tmp_path, model)
    config = OnPolicyConfig(old_logprob="monte_carlo", draws=DrawsConfig(engine="training", count=4), token_budget=100)
    filled, metrics = await with_old(stage, samples, config, Draws(by_trainer(stage, 100), config.draws, 0))
    assert metrics["draws"] == 2
    for sample, score_T in zip(filled, score_samples(model, samples, 1000, tree=False), strict=True):
        np.testing.assert_allclose(sample.old_logprob_T, score_T, atol=1e-5)


async def test_a_replay_needs_routes(tmp_path: Path, tiny_model: Make, random_sample: Make) -> None:
    stage = _stage(tmp_path, tiny_model("qwen3_moe", dtype=torch.float32))
    samples = [random_sample(np.random.default_rng(3), 40)]
    config = OnPolicyConfig(old_logprob="replay")
    with pytest.raises(UserError, match="set old_logprob = recompute or monte_carlo"):
        await with_old(stage, samples, config, Draws(_Noisy(0.0).score, config.draws, 0))
