"""The curriculum: tasks that are solved sometimes are preferred, measured anew, and an interruption changes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.envs.api import Task
from palmette.rollout.outcomes import Outcome
from palmette.rollout.record import save_rollouts
from palmette.rollout.run import Rollout
from palmette.train.bands import Bands, remembered
from palmette.train.curriculum import CurriculumConfig
from palmette.train.onpolicy import _parts
from palmette.train.rl import RlConfig
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree


def tasks(count: int) -> list[Task]:
    return [Task(name=f"t/{k}", path=Path("nowhere"), domain="swe", instruction="") for k in range(count)]


def rollout(task: Task, reward: float | None, group: int = 0) -> Rollout:
    facts: dict[str, Any] = {"turns": 0, "sampled_tokens": 0, "wall_s": 0.0, "conversation": [], "detail": ""}
    outcome = Outcome.OK if reward is not None else Outcome.ENGINE_ERROR
    named = {"task": task.name, "domain": task.domain, "group": group, "sample": 0, "attempt": 1}
    return Rollout(**named, **facts, outcome=outcome, reward=reward, tree=Tree())


def rated(bands: Bands, step: int, rates: dict[Task, float], of: int = 10) -> None:
    bands.learn(step, [rollout(t, float(k < round(rate * of))) for t, rate in rates.items() for k in range(of)])


def test_tasks_in_the_band_come_first_and_a_share_measures() -> None:
    ten = tasks(10)
    bands = Bands(CurriculumConfig(complexity=True, stale=3, probe=0.25), seed=1)
    rated(bands, 1, dict(zip(ten, [0.0, 0.0, 1.0, 1.0, 0.1, 0.5, 0.9, 0.2], strict=False)))
    chosen = bands.choose(ten, step=2, count=4)
    names = Counter(task.name for task in chosen)
    assert max(names.values()) == 1
    assert len({task.name for task in ten[8:]} & names.keys()) == 1, "a quarter is of tasks nobody has tried"
    assert len({task.name for task in ten[4:8]} & names.keys()) == 3
    assert bands.shares(ten, 2) == {"measured": 0.8, "in_band": 0.5}
    everything = bands.choose(ten, step=2, count=10)
    assert len({task.name for task in everything}) == 10
    assert {task.name for task in everything[6:]} == {task.name for task in ten[:4]}, "what says nothing comes last"
    assert not {task.name for task in bands.choose(ten, step=2, count=3, but={t.name for t in ten[4:8]})} & {
        task.name for task in ten[4:8]
    }


def test_rates_are_measured_anew_and_infrastructure_measures_nothing() -> None:
    four = tasks(4)
    bands = Bands(CurriculumConfig(complexity=True, stale=2, probe=0.0), seed=1)
    rated(bands, 1, dict.fromkeys(four, 0.5))
    rated(bands, 2, dict.fromkeys(four[:2], 1.0))
    bands.learn(3, [rollout(four[0], None)])
    assert {task.name for task in bands.choose(four, step=3, count=2)} == {"t/2", "t/3"}, "the others are too easy now"
    assert bands.shares(four, 4) == {"measured": 0.5, "in_band": 0.0}
    assert {task.name for task in bands.choose(four, step=4, count=2)} == {"t/2", "t/3"}, "stale, so measured anew"
    assert len(bands.choose(four[:1], step=5, count=3)) == 3
    with pytest.raises(ValueError, match="no tasks"):
        bands.choose([], step=1, count=1)


def test_an_interrupted_stage_chooses_as_one_that_was_not(tmp_path: Path) -> None:
    twelve, config = tasks(12), CurriculumConfig(complexity=True, stale=4)
    whole, store = Bands(config, 5), TreeStore(tmp_path)
    for step in range(1, 6):
        chosen = whole.choose(twelve, step=step, count=4)
        found = [
            rollout(task, float((hash_of(task) + step + k) % 3 == 0), group)
            for group, task in enumerate(chosen)
            for k in range(4)
        ]
        if step == 5:  # was under way when it was killed: stored, but not done
            save_rollouts(store, [rollout(task, 1.0) for task in twelve], stage="rl/swe", step=5)
        save_rollouts(store, found, stage="rl/swe", step=step)
        save_rollouts(store, [rollout(task, 1.0) for task in twelve], stage="rl/other", step=step)
        if step < 5:
            whole.learn(step, found)
    again = remembered(config, 5, store, "rl/swe", 4)
    assert again.choose(twelve, step=5, count=6) == whole.choose(twelve, step=5, count=6)
    assert again.shares(twelve, 5) == whole.shares(twelve, 5)
    assert remembered(config, 5, store, "rl/swe", 0).shares(twelve, 1)["measured"] == 0


def hash_of(task: Task) -> int:
    return int(task.name.removeprefix("t/")) * 7


@given(st.lists(st.integers(1, 400), min_size=1, max_size=24), st.integers(1, 5), st.integers(0, 9))
def test_stratified_minibatches_are_alike_in_length(lengths: list[int], minibatches: int, seed: int) -> None:
    samples: Any = [SimpleNamespace(token_ids_T=np.zeros(length)) for length in lengths]
    owners: Any = [SimpleNamespace(group=group) for group in range(len(lengths))]
    config = RlConfig(minibatches=minibatches, stratified=True, epochs=2)
    parts = _parts(samples, owners, config, np.random.default_rng(seed))
    for epoch in (parts[:minibatches], parts[minibatches:]):
        ids = [id(sample) for part in epoch for sample in part]
        assert sorted(ids) == sorted(map(id, samples)), "everything once"
        assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
        ordered = sorted(lengths)
        for part in epoch:  # the k-th longest of a minibatch is of the k-th run of neighbours
            for k, sample in enumerate(sorted(part, key=lambda each: len(each.token_ids_T))):
                run = ordered[k * minibatches : (k + 1) * minibatches]
                assert run[0] <= len(sample.token_ids_T) <= run[-1]
