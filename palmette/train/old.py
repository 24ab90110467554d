"""The old log-probs of a step's samples as a recipe asks for them, and how far trainer and engine are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from palmette.errors import UserError
from palmette.train.draws import Draws, Estimate, Pass, unit_variance
from palmette.train.policy import OnPolicyConfig
from palmette.train.samples import Sample
from palmette.train.score import score_samples
from palmette.train.stage import Stage


async def with_old(
    stage: Stage, samples: Sequence[Sample], config: OnPolicyConfig, draws: Draws
) -> tuple[list[Sample], dict[str, float]]:
    """Return the samples with `old_logprob_T` and, for a gate, `mismatch_T` as `config` says; and what was measured.

    The training model must not have been updated since it was served. Raises `UserError` for a replay of routes that
    the engine did not record.
    """
    estimate = None
    if config.drawn:
        budget = config.draws.budget or (config.clip.low / 2) ** 2
        variance = unit_variance(samples, config.ratio, config.exponent)
        estimate = await draws.take(samples, variance=variance, budget=budget)
    return await stage.work(lambda: _filled(stage, samples, config, estimate))


def by_trainer(stage: Stage, token_budget: int) -> Pass:
    """Return passes of the training model, each in another order and at another budget, so that batches differ."""

    async def score(samples: Sequence[Sample], rng: np.random.Generator) -> list[np.ndarray]:
        order = rng.permutation(len(samples))
        budget = int(rng.integers(token_budget // 2, token_budget + 1))
        found = await stage.work(
            lambda: score_samples(stage.model, [samples[i] for i in order], max(budget, 1), tree=stage.tree)
        )
        rows = [np.zeros(0)] * len(samples)
        for i, score_T in zip(order, found, strict=True):
            rows[i] = score_T[np.asarray(samples[i].sampled_T, bool)].astype(np.float64)
        return rows

    return score


def _filled(
    stage: Stage, samples: Sequence[Sample], config: OnPolicyConfig, estimate: Estimate | None
) -> tuple[list[Sample], dict[str, float]]:
    routed = config.old_logprob == "replay"
    if routed and any(sample.route_TLK is None for sample in samples):
        raise UserError(
            "old_logprob = replay needs an engine that records which experts it chose, and this one does not; "
            "set old_logprob = recompute or monte_carlo"
        )
    kept = [sample if routed else replace(sample, route_TLK=None) for sample in samples]
    metrics = dict(estimate.metrics) if estimate else {}
    recorded = [sample.logprob_T for sample in kept]
    behaviour = recorded if estimate is None else estimate.logprob
    old = behaviour if config.old_logprob == "monte_carlo" else recorded
    if routed or config.old_logprob == "recompute" or config.gate != "none":
        train = score_samples(stage.model, kept, config.token_budget, tree=stage.tree)
        metrics["mismatch_kl"] = _divergence(train, recorded, kept)
        old = train if config.old_logprob in ("recompute", "replay") else old
        against = behaviour if config.gate_against == "monte_carlo" else recorded
        kept = [replace(s, mismatch_T=score_T - b_T) for s, score_T, b_T in zip(kept, train, against, strict=True)]
    return [replace(s, old_logprob_T=old_T) for s, old_T in zip(kept, old, strict=True)], metrics


def _divergence(train: Sequence[np.ndarray], recorded: Sequence[np.ndarray], samples: Sequence[Sample]) -> float:
    """Return KL(engine, trainer) a sampled token in nats, by k3 (Schulman 2020)."""
    deltas = [(a - b)[np.asarray(s.sampled_T, bool)] for a, b, s in zip(train, recorded, samples, strict=True)]
    delta = np.concatenate([*deltas, np.zeros(0)]).astype(np.float64)
    return float((np.expm1(delta) - delta).mean()) if len(delta) else 0.0
