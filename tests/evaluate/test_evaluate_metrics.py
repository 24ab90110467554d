"""Scores against numbers worked out by hand, by enumeration, and by simulation."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.evaluate.metrics import cluster_wilson, pass_at_k, score, wilson
from palmette.evaluate.run import evaluation
from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.run import Rollout
from palmette.trajectory.tree import Tree


def rollout(task: str, reward: float | None, *, outcome: Outcome = Outcome.OK, domain: str = "swe", tier: int = 1):
    return Rollout(
        task=task,
        domain=domain,
        tier=tier,
        group=0,
        sample=0,
        outcome=outcome,
        reward=reward,
        tree=Tree(),
        turns=1,
        sampled_tokens=0,
        wall_s=0.0,
        conversation=[],
        detail="",
        attempt=1,
    )


LOST = {"reward": None, "outcome": Outcome.SANDBOX_LOST}


def test_pass_1_is_the_mean_over_tasks_of_the_share_of_trusted_rollouts():
    rollouts = [
        *(rollout("a", reward) for reward in (1.0, 1.0, 1.0, 0.0)),  # 3/4
        rollout("b", 0.5),  # a part of the reward is no pass
        rollout("b", 1.0),  # 1/2
        rollout("c", **LOST),  # nobody knows
        rollout("b", **LOST),
    ]
    result = score(rollouts)
    assert result.pass_1 == pytest.approx((0.75 + 0.5) / 2)
    assert result.mean_reward == pytest.approx((0.75 + 0.75) / 2)
    assert (result.tasks, result.unscored, result.rollouts, result.excluded) == (2, 1, 8, 2)
    assert result.outcomes == {"ok": 6, "sandbox_lost": 2}
    # pass@2 of a: 1 - C(1,2)/C(4,2) = 1; of b: 1 - C(1,2)/C(2,2) = 1; pass@4 of a alone
    assert result.pass_k == {1: result.pass_1, 2: 1.0, 4: 1.0}


@given(
    rewards=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.3, 1.0])), min_size=1, max_size=20),
    lost=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from([o for o in Outcome if not RULES[o].trust_reward]))
    ),
    seed=st.integers(0, 9),
)
def test_untrusted_rollouts_change_counts_and_nothing_else(
    rewards: list[tuple[str, float]], lost: list[tuple[str, Outcome]], seed: int
):
    trusted = [rollout(task, reward) for task, reward in rewards]
    mixed = trusted + [rollout(task, None, outcome=outcome) for task, outcome in lost]
    random.Random(seed).shuffle(mixed)
    clean, dirty = score(trusted), score(mixed)
    assert dirty.pass_1 == pytest.approx(clean.pass_1)
    assert dirty.interval == pytest.approx(clean.interval)
    assert dirty.mean_reward == pytest.approx(clean.mean_reward)
    assert dirty.pass_k == pytest.approx(clean.pass_k)
    assert (dirty.excluded, dirty.tasks, dirty.rollouts) == (len(lost), clean.tasks, len(mixed))


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_solution(case: tuple[int, int, int]):
    n, solved, k = case
    subsets = list(itertools.combinations([True] * solved + [False] * (n - solved), k))
    assert pass_at_k(n, solved, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


@pytest.mark.parametrize("case", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_is_not_defined(case: tuple[int, int, int]):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(*case)


def test_wilson_has_the_published_numbers():
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29 at 95 %
    for solved, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(solved / n, n) == pytest.approx((low, high), abs=5e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_one_sample_a_task_gives_wilsons_interval(passes: list[bool]):
    low, high = cluster_wilson([(1, int(each)) for each in passes])
    share = sum(passes) / len(passes)
    assert (low, high) == pytest.approx(wilson(share, len(passes)))
    assert 0 <= low <= share <= high <= 1


def test_samples_of_equal_tasks_do_not_count_as_independent():
    alike = cluster_wilson([(8, 8)] * 10 + [(8, 0)] * 10)  # eight samples say no more than one
    assert alike == pytest.approx(wilson(0.5, 20))
    mixed = cluster_wilson([(8, 4)] * 20)  # every task is a fair coin, but only 20 tasks were seen
    assert mixed == pytest.approx(wilson(0.5, 20))


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, inside, rounds = random.Random(3), 0, 1500
    for _ in range(rounds):
        counts = []
        for _ in range(30):
            chance = rng.betavariate(1.2, 0.8)  # tasks differ: the mean is 0.6
            counts.append((4, sum(rng.random() < chance for _ in range(4))))
        low, high = cluster_wilson(counts)
        inside += low <= 0.6 <= high
    assert 0.93 <= inside / rounds <= 0.975
    # as independent trials the same numbers would promise too much: the interval must be wider than that
    naive_low, naive_high = wilson(sum(s for _, s in counts) / 120, 120)
    assert high - low > naive_high - naive_low


def test_an_evaluation_splits_by_domain_and_tier_and_is_json():
    rollouts = [
        rollout("a", 1.0, domain="swe", tier=1),
        rollout("b", 0.0, domain="swe", tier=2),
        rollout("c", 1.0, domain="terminal", tier=1),
        rollout("d", domain="web", **LOST),
    ]
    result = evaluation(rollouts)
    assert {name: each.pass_1 for name, each in result.domains.items() if each.tasks} == {"swe": 0.5, "terminal": 1.0}
    assert {tier: each.pass_1 for tier, each in result.tiers["swe"].items()} == {1: 1.0, 2: 0.0}
    assert result.overall.pass_1 == pytest.approx(2 / 3)
    assert math.isnan(result.domains["web"].pass_1)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["domains"]["web"]["pass_1"] is None
    assert told["domains"]["web"]["excluded"] == 1
    assert told["tiers"]["swe"]["2"]["pass_1"] == 0.0
