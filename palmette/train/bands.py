"""Which tasks are worth a group: those that the policy solves sometimes, as its own latest rollouts tell."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from palmette.envs.api import Task
from palmette.evaluate.metrics import PASS
from palmette.rollout.record import load_rollouts
from palmette.rollout.run import Rollout
from palmette.train.curriculum import CurriculumConfig
from palmette.trajectory.store import TreeStore


class Bands:
    """Pass rates of tasks, each as measured last; e.g. ``Bands(config, seed).choose(tasks, step=3, count=8)``.

    A rate counts for `config.stale` steps, then its task is measured anew. Everything follows from the seed and from
    what was learned.
    """

    def __init__(self, config: CurriculumConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._measured: dict[str, tuple[int, float]] = {}  # task -> step, pass rate

    def learn(self, step: int, rollouts: Iterable[Rollout]) -> None:
        """Take the rewards of a step that can be trusted; of other tasks the old rates stay."""
        solved: dict[str, list[bool]] = {}
        for rollout in rollouts:
            if rollout.reward is not None:
                solved.setdefault(rollout.task, []).append(rollout.reward >= PASS)
        for task, of_task in solved.items():
            self._measured[task] = (step, sum(of_task) / len(of_task))

    def choose(
        self, tasks: Sequence[Task], *, step: int, count: int, turn: int = 0, but: Collection[str] = ()
    ) -> list[Task]:
        """Return `count` tasks for a step, those named in `but` only when there are no others.

        A share of them (`config.probe`) is of unknown rate: never measured, or longest ago. The rest is of the band;
        where that holds too few, more of unknown rate, then those nearest to the band. Raises `ValueError` without
        tasks.
        """
        if not tasks:
            raise ValueError("there are no tasks to choose from")
        rng = np.random.default_rng([self._seed, step, turn])
        order = rng.permutation(len(tasks)).tolist()
        open_ = [i for i in order if tasks[i].name not in but] or order
        inside = [i for i in open_ if self._distance(tasks[i].name, step) == 0]
        unknown = [i for i in open_ if self._rate(tasks[i].name, step) is None]
        unknown.sort(key=lambda i: self._measured.get(tasks[i].name, (-1, 0.0))[0])
        rest = [i for i in open_ if (self._distance(tasks[i].name, step) or 0) > 0]
        rest.sort(key=lambda i: self._distance(tasks[i].name, step) or 0)
        probes = min(len(unknown), max(round(self._config.probe * count), count - len(inside)))
        chosen = [*unknown[:probes], *inside[: count - probes]]
        chosen += [i for i in (*unknown[probes:], *rest) if i not in chosen][: count - len(chosen)]
        while len(chosen) < count:  # fewer tasks than groups
            chosen += chosen[: count - len(chosen)]
        return [tasks[i] for i in chosen]

    def shares(self, tasks: Sequence[Task], step: int) -> dict[str, float]:
        """Return which part of the tasks has a rate that counts, and which part of these is in the band."""
        distances = [d for task in tasks if (d := self._distance(task.name, step)) is not None]
        inside = sum(d == 0 for d in distances)
        return {
            "measured": len(distances) / max(len(tasks), 1),
            "in_band": inside / len(distances) if distances else 0.0,
        }

    def _rate(self, name: str, step: int) -> float | None:
        at, rate = self._measured.get(name, (-1, 0.0))
        return rate if name in self._measured and step - at <= self._config.stale else None

    def _distance(self, name: str, step: int) -> float | None:
        """Return how far a rate is from the band, 0 inside; None where it is not known."""
        rate = self._rate(name, step)
        low, high = self._config.band
        return None if rate is None else max(low - rate, rate - high, 0.0)


def remembered(config: CurriculumConfig, seed: int, store: TreeStore, stage: str, steps: int) -> Bands:
    """Return the bands of a stage of which `steps` steps are done, as its stored rollouts tell."""
    bands = Bands(config, seed)
    by_step: dict[int, list[Rollout]] = {}
    for rollout, metadata in load_rollouts(store, stage=stage) if steps else ():
        if metadata["step"] <= steps:
            by_step.setdefault(metadata["step"], []).append(rollout)
    for step in sorted(by_step):
        bands.learn(step, by_step[step])
    return bands
