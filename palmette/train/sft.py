"""Supervised fine-tuning: demonstrations fill the arrays, the loss is the likelihood of the sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.progress import Progress
from palmette.train.curriculum import Intent
from palmette.train.losses import Terms, nll
from palmette.train.optim import OptimConfig
from palmette.train.pairs import Pairs
from palmette.train.samples import Sample, Totals
from palmette.train.stage import Stage, order


class SftConfig(BaseModel):
    """Training on demonstrations."""

    model_config = ConfigDict(extra="forbid")

    demonstrations: int | None = Field(
        default=None, ge=1, description="show only this many training tasks; RL then prefers the others"
    )
    intents: list[Intent] = Field(
        default_factory=list, description="phrasings that they are told in, in turn; none: the tasks' own"
    )
    recordings: list[str] = Field(
        default_factory=list, description="runs whose solved or recorded rollouts are imitated too, in every domain"
    )
    retokenise: bool = Field(
        default=False, description="also imitate recordings that are text alone (`palmette proxy`), tokenised anew"
    )
    epochs: float = Field(default=3.0, gt=0, description="passes over the demonstrations")
    batch: int = Field(default=32, ge=1, description="demonstrations a step")
    token_budget: int = Field(default=4096, ge=1, description="padded tokens of a micro-batch")
    checkpoint_every: int = Field(default=20, ge=1, description="steps between checkpoints")
    optim: OptimConfig = Field(
        default_factory=lambda: OptimConfig(lr=1e-3, decay="cosine"), description="how weights move"
    )

    def steps(self, count: int) -> int:
        """Return the number of steps over `count` demonstrations."""
        return max(round(self.epochs * count / self.batch), 1)


async def sft(stage: Stage, samples: Sequence[Sample], config: SftConfig) -> dict[str, Any]:
    """Train for all steps that are left; return the last step's metrics. Raises `ValueError` without samples."""
    total = config.steps(len(samples))
    row: dict[str, Any] = {}
    with Progress(stage.name, total, "steps", done=stage.step) as bar, stage.kept():
        while stage.step < total:
            chosen = order(stage.seed, len(samples), stage.step * config.batch, config.batch)
            batch = [samples[i] for i in chosen]
            row = await stage.advance(lambda _rng, batch=batch: [batch], Likelihood(), token_budget=config.token_budget)
            bar.update(1, loss=row["loss"], tokens=row["tokens"])
    return row


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The mean negative log-likelihood of the sampled tokens."""

    @property
    def pointwise(self) -> bool:
        """Every pair stands for itself."""
        return True

    def __call__(self, logprob_M: Tensor, pairs: Pairs, totals: Totals, also_MK: Tensor | None = None) -> Terms:
        """Return the loss in nats a token."""
        return nll(logprob_M, totals)
