"""Measures a model on tasks: attempts each, and scores by domain and by tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.evaluate.metrics import PASS, Score, score
from palmette.progress import Progress
from palmette.rollout.casting import Casting
from palmette.rollout.pool import Pool
from palmette.rollout.run import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of one model on a set of tasks, and the rollouts they are made of.

    `domains` maps domain → score, `tiers` domain → tier → score.
    """

    overall: Score
    domains: dict[str, Score]
    tiers: dict[str, dict[int, Score]]
    rollouts: list[Rollout]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON-able plain values (without the rollouts); tiers become strings."""
        return {
            "overall": self.overall.to_dict(),
            "domains": {name: each.to_dict() for name, each in self.domains.items()},
            "tiers": {
                name: {str(tier): each.to_dict() for tier, each in tiers.items()} for name, tiers in self.tiers.items()
            },
        }


async def evaluate(
    tasks: Sequence[Task],
    *,
    pool: Pool,
    samples: int = 1,
    sampling: Sampling,
    on_done: Callable[[Rollout], None] | None = None,
    casting: Casting | None = None,
) -> Evaluation:
    """Attempt every task `samples` times with the engine behind `pool`, and score what came back."""
    found = await pool.run(tasks, samples=samples, sampling=sampling, on_done=on_done, casting=casting)
    return evaluation(found)


def shown_on(bar: Progress) -> Callable[[Rollout], None]:
    """Return an `on_done` that moves `bar` by one and shows the success so far among rewards that can be trusted."""
    solved: list[bool] = []

    def on_done(rollout: Rollout) -> None:
        if rollout.reward is not None:
            solved.append(rollout.reward >= PASS)
        shown = {"success": sum(solved) / len(solved)} if solved else {}
        bar.update(1, tokens=rollout.sampled_tokens, **shown)

    return on_done


def evaluation(rollouts: Sequence[Rollout]) -> Evaluation:
    """Score rollouts that are there already, e.g. those read back from a run directory."""
    domains = sorted({rollout.domain for rollout in rollouts})
    tiers = {domain: sorted({rollout.tier for rollout in rollouts if rollout.domain == domain}) for domain in domains}
    return Evaluation(
        overall=score(rollouts),
        domains={domain: score(r for r in rollouts if r.domain == domain) for domain in domains},
        tiers={
            domain: {tier: score(r for r in rollouts if r.domain == domain and r.tier == tier) for tier in of_domain}
            for domain, of_domain in tiers.items()
        },
        rollouts=list(rollouts),
    )
