"""What a set of rollouts says about a model: pass@1, pass@k, and how sure one can be.

Only rollouts whose reward can be trusted are counted; the others are excluded from every denominator, and their
number is part of the score, so that nothing disappears silently.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from palmette.rollout.run import Rollout

PASS = 1.0 - 1e-9  # least reward of a task that counts as solved


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well a model did on some tasks, e.g. ``Score(pass_1=0.5, interval=(0.24, 0.76), tasks=12, ...)``.

    `pass_1` is the mean over tasks of the share of trusted rollouts that solved the task, `interval` its 95 %
    interval (`cluster_wilson`), `pass_k` the unbiased pass@k for k = 1, 2, 4, ... where at least one task has k
    trusted rollouts. `tasks` counts the tasks with a trusted rollout; `unscored` those without any; `excluded` the
    rollouts that nobody can trust. Numbers are NaN when `tasks` is 0.
    """

    pass_1: float
    interval: tuple[float, float]
    mean_reward: float
    pass_k: dict[int, float]
    tasks: int
    unscored: int
    rollouts: int
    excluded: int
    outcomes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON-able plain values; NaN becomes None, the keys of `pass_k` strings."""
        plain = asdict(self) | {"interval": [_finite(bound) for bound in self.interval]}
        plain |= {"pass_1": _finite(self.pass_1), "mean_reward": _finite(self.mean_reward)}
        return plain | {"pass_k": {str(k): value for k, value in self.pass_k.items()}}


def score(rollouts: Iterable[Rollout]) -> Score:
    """Return the score of a set of rollouts; rollouts of one task (by name) belong together."""
    kept = list(rollouts)
    by_task: dict[str, list[float]] = {rollout.task: [] for rollout in kept}
    for rollout in kept:
        if rollout.reward is not None:
            by_task[rollout.task].append(rollout.reward)
    rewards = [of_task for of_task in by_task.values() if of_task]
    counts = [(len(of_task), sum(reward >= PASS for reward in of_task)) for of_task in rewards]
    return Score(
        pass_1=_mean([solved / n for n, solved in counts]),
        interval=cluster_wilson(counts),
        mean_reward=_mean([sum(of_task) / len(of_task) for of_task in rewards]),
        pass_k=_pass_ks(counts),
        tasks=len(rewards),
        unscored=len(by_task) - len(rewards),
        rollouts=len(kept),
        excluded=sum(rollout.reward is None for rollout in kept),
        outcomes=dict(sorted(Counter(str(rollout.outcome) for rollout in kept).items())),
    )


def pass_at_k(n: int, solved: int, k: int) -> float:
    """Return the chance that k of n samples, drawn without replacement, hold one of the `solved` ones.

    1 - C(n - solved, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, eq. 1). Raises
    `ValueError` unless 0 <= solved <= n and 1 <= k <= n.
    """
    if not (0 <= solved <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} is not defined for {solved} solved of {n} samples")
    return 1.0 - math.comb(n - solved, k) / math.comb(n, k)


def wilson(share: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion seen in n trials (n need not be whole); z = 1.96 means 95 %.

    Wilson 1927; unlike the textbook interval it stays inside [0, 1] and has a width where the share is 0 or 1.
    """
    if n <= 0:
        return math.nan, math.nan
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding must not cross it


def cluster_wilson(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return the 95 % interval of pass@1 from (samples, solved) of each task; with one sample a task it is Wilson's.

    Samples of one task are alike, so they are not independent trials. The variance of the mean over tasks,
    Σ (p_i - p)² / N², gives the number of independent trials that would be as sure, n* = p(1 - p) / variance, and
    Wilson's interval is taken at n* (Korn & Graubard 1998; Franco et al. 2019). n* is held between the number of
    tasks and that of samples, which also covers tasks that all came out alike.
    """
    tasks = len(counts)
    if not tasks:
        return math.nan, math.nan
    shares_N = [solved / n for n, solved in counts]
    share = _mean(shares_N)
    variance = sum((each - share) ** 2 for each in shares_N) / tasks**2
    samples = sum(n for n, _ in counts)
    trials = share * (1 - share) / variance if variance > 0 else tasks
    return wilson(share, min(max(trials, tasks), samples))


def _pass_ks(counts: Sequence[tuple[int, int]]) -> dict[int, float]:
    """Return pass@k for the powers of two that some task has samples for; tasks with fewer than k are left out."""
    most = max((n for n, _ in counts), default=0)
    ks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return {k: _mean([pass_at_k(n, solved, k) for n, solved in counts if n >= k]) for k in ks}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
