"""Monte-Carlo estimates of what a noisy engine thinks of the tokens it sampled: MCLA (KAT-Coder-V2 section 3.3.3).

An engine whose experts flip with the batch they share reports a log-prob that is a draw: log pi = log pi* + noise. The
mean of K draws has a K-th of the variance, if the draws are independent: each is a pass of its own over the whole
sequence (`Engine.score` reads no cached prefix), in another order, so in other company.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from palmette.engine.api import Engine
from palmette.train.samples import Sample

_LOG = logging.getLogger("palmette.train")
_ROUNDING = 1e-9  # variance of log-probs below which passes differ by rounding alone


class DrawsConfig(BaseModel):
    """How often and by whom sampled tokens are scored again."""

    model_config = ConfigDict(extra="forbid")

    count: int | Literal["auto"] = Field(
        default=8, description="K, at least 1; auto: the fewest that keep the noise of a ratio within its budget"
    )
    mean: Literal["log", "prob"] = Field(
        default="prob", description="what is averaged: log-probs (the report) | probabilities (KAT's earlier note)"
    )
    engine: Literal["inference", "training"] = Field(default="inference", description="whose passes they are")
    budget: float | None = Field(
        default=None, gt=0, description="variance of a unit's log ratio that auto allows; unset: (clip_low / 2)^2"
    )
    most: int = Field(default=16, ge=2, description="the most draws of auto")

    def model_post_init(self, _context: object) -> None:
        """Refuse a count that says nothing."""
        if self.count != "auto" and self.count < 1:
            raise ValueError(f"draws.count must be at least 1, or auto, not {self.count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The mean log-prob of each sampled token of each sample (float32 _T, 0 where given), and how good it is."""

    logprob: list[np.ndarray]
    metrics: dict[str, float]


Pass = Callable[[Sequence[Sample], np.random.Generator], Awaitable[list[np.ndarray]]]
"""Scores samples once, in an order of its own; returns the log-probs of their sampled tokens, in the given order."""


class Draws:
    """The draws of a stage, step by step; what is begun early is not drawn again."""

    def __init__(self, score: Pass, config: DrawsConfig, seed: int) -> None:
        self._score, self._config = score, config
        self._rng = np.random.default_rng(seed)
        self._rows: dict[bytes, list[np.ndarray]] = {}  # draws so far, float64 of the sampled tokens
        self._under_way: list[asyncio.Task[None]] = []
        self._steady: bool | None = None  # whether the engine says the same each time; not known before two draws
        self._tokens, self._seconds = 0, 0.0

    def begin(self, samples: Sequence[Sample]) -> None:
        """Start drawing in the background, e.g. while other rollouts are still going on."""
        self._under_way.append(asyncio.ensure_future(self._fill(samples, self._first())))

    async def take(self, samples: Sequence[Sample], *, variance: float = 1.0, budget: float = math.inf) -> Estimate:
        """Return the estimate for `samples`, drawing what is missing; raises what scoring raises.

        ``count = auto`` goes on until the log ratio of a unit, which has `variance` times the noise variance of a token
        (`unit_variance`), is expected to have at most `budget`.
        """
        await asyncio.gather(*self._under_way)
        await self._fill(samples, self._first())
        if self._steady is None and samples and self._first() > 1:
            self._steady = self._variance(samples) < _ROUNDING
            if self._steady:
                _LOG.warning("the engine says the same in every pass: one draw is as good as many, and one is made")
        if not self._steady:
            count = self._config.count
            if count == "auto":
                needed = math.ceil(self._variance(samples) * variance / budget)
                count = min(max(needed, 2), self._config.most)
            await self._fill(samples, count)
        estimate = self._estimate(samples)
        self._rows.clear()  # of weights that are about to change
        self._under_way.clear()
        self._tokens, self._seconds = 0, 0.0
        return estimate

    async def close(self) -> None:
        """Stop what is still under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _first(self) -> int:
        """Draws to begin with."""
        if self._steady or self._config.count == 1:
            return 1
        return 2 if self._steady is None or self._config.count == "auto" else self._config.count

    async def _fill(self, samples: Sequence[Sample], count: int) -> None:
        """Draw until there are `count` of each; equal sequences have the same draws."""
        wanted = {_key(sample): sample for sample in samples}
        while missing := {key: s for key, s in wanted.items() if len(self._rows.setdefault(key, [])) < count}:
            began = time.monotonic()
            scores = await self._score(list(missing.values()), self._rng)
            for key, row in zip(missing, scores, strict=True):
                self._rows[key].append(row)
            self._tokens += sum(len(sample.token_ids_T) for sample in missing.values())
            self._seconds += time.monotonic() - began

    def _stacked(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Return the draws _KM of each different sample."""
        return [np.stack(self._rows[key]) for key in dict.fromkeys(map(_key, samples)) if self._rows[key][0].size]

    def _variance(self, samples: Sequence[Sample]) -> float:
        """Return the noise variance of one draw of one token, 0 where it cannot be known."""
        rows = [row.var(0, ddof=1) for row in self._stacked(samples) if len(row) > 1]
        return float(np.concatenate(rows).mean()) if rows else 0.0

    def _estimate(self, samples: Sequence[Sample]) -> Estimate:
        means: list[np.ndarray] = []
        for sample in samples:
            logprob_T = np.zeros(len(sample.token_ids_T), np.float32)
            logprob_T[np.asarray(sample.sampled_T, bool)] = _mean(np.stack(self._rows[_key(sample)]), self._config.mean)
            means.append(logprob_T)
        counts = [len(self._rows[_key(sample)]) for sample in samples]
        metrics = {
            "draws": float(np.mean(counts)) if counts else 0.0,
            "draw_var": self._variance(samples),
            "effective_draws": effective_draws(self._stacked(samples)),
            "drawn_tokens": float(self._tokens),
            "draw_s": self._seconds,
        }
        return Estimate(logprob=means, metrics=metrics)


def by_engine(engine: Engine) -> Pass:
    """Return passes of an inference engine: all samples at once, shuffled, so that batches differ from pass to pass."""

    async def score(samples: Sequence[Sample], rng: np.random.Generator) -> list[np.ndarray]:
        order = rng.permutation(len(samples))
        found = await asyncio.gather(*(engine.score(samples[i].token_ids_T.tolist()) for i in order))
        rows = [np.zeros(0)] * len(samples)
        for i, logprobs in zip(order, found, strict=True):
            rows[i] = np.array(logprobs)[np.asarray(samples[i].sampled_T[1:], bool)]  # nothing predicts the first
        return rows

    return score


def effective_draws(draws: Sequence[np.ndarray]) -> float:
    """Return var(one draw) / var(mean of all draws) of some rows _KM: K if they are independent, 1 if all alike.

    The variance of a mean is measured between the first and the second half of the draws, so it sees what neighbours
    share, and not what all of them share. With fewer than four draws it cannot be told, and K is returned.
    """
    rows = [row for row in draws if len(row) >= 4 and row.shape[1]]
    if not rows:
        return float(max((len(row) for row in draws), default=0))
    one = np.concatenate([row.var(0, ddof=1) for row in rows])
    halves = [len(row) // 2 for row in rows]
    half = np.concatenate([(r[:h].mean(0) - r[h : 2 * h].mean(0)) ** 2 / 2 for r, h in zip(rows, halves, strict=True)])
    if not half.mean():
        return 1.0
    return float(one.mean() / half.mean() * np.mean([len(r) / h for r, h in zip(rows, halves, strict=True)]))


def unit_variance(samples: Sequence[Sample], ratio: str, exponent: str) -> float:
    """Return the variance of a unit's log ratio when every token's log-prob has variance 1, on average over units.

    m for the product over m tokens, 1/m for the geometric mean (KAT-Coder-V2 section 3.3.1; GSPO).
    """
    if ratio == "token":
        return 1.0
    sizes = [end - start for s in samples for start, end in s.turns] if ratio == "turn" else []
    size_U = np.array(sizes or [s.num_sampled for s in samples] or [1], float)
    return float((size_U if exponent == "product" else 1 / size_U).mean())


def _mean(draws_KM: np.ndarray, kind: Literal["log", "prob"]) -> np.ndarray:
    if kind == "log":
        return draws_KM.mean(0)
    return np.logaddexp.reduce(draws_KM, 0) - math.log(len(draws_KM))


def _key(sample: Sample) -> bytes:
    return sample.token_ids_T.tobytes() + np.asarray(sample.sampled_T, bool).tobytes()
