"""Credit: numbers by hand, and infrastructure failures that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.rollout.outcomes import RULES, Outcome
from palmette.train.credit import advantages, group_credit, scales

INFRASTRUCTURE = [o for o in Outcome if not RULES[o].counts_in_baseline]
AGENT = [o for o in Outcome if RULES[o].counts_in_baseline]


@dataclass(frozen=True)
class Attempt:
    group: int
    outcome: Outcome
    reward: float | None


def test_advantages_by_hand() -> None:
    reward_G = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    assert advantages(reward_G, "mean") == pytest.approx([0.4, -0.6, -0.6, 0.4, 0.4])
    assert advantages(reward_G, "std") == pytest.approx(np.array([0.4, -0.6, -0.6, 0.4, 0.4]) / np.sqrt(0.24))
    assert advantages(reward_G, "leave_one_out") == pytest.approx([0.5, -0.75, -0.75, 0.5, 0.5])
    assert advantages(reward_G, "none") == pytest.approx(reward_G)
    for baseline in ("std", "mean", "leave_one_out"):
        assert not advantages(np.array([1.0]), baseline).any()
        assert not advantages(np.array([0.3, 0.3, 0.3]), baseline).any()


def test_only_rollouts_with_a_trusted_reward_count() -> None:
    attempts = [
        Attempt(0, Outcome.OK, 1.0),
        Attempt(0, Outcome.TURN_LIMIT, 0.0),
        Attempt(0, Outcome.ENGINE_ERROR, None),
        Attempt(0, Outcome.VERIFIER_ERROR, 1.0),  # a number that may not be trusted
        Attempt(1, Outcome.OK, 1.0),
        Attempt(1, Outcome.SANDBOX_LOST, None),
    ]
    credit = group_credit(attempts, "mean")
    assert credit.advantage_R.tolist() == [0.5, -0.5, 0, 0, 0, 0]
    assert credit.trainable_R.tolist() == [True, True, False, False, True, False]
    assert credit.silent_share == 0.5


attempt = st.builds(
    Attempt, group=st.integers(0, 2), outcome=st.sampled_from(AGENT), reward=st.sampled_from([0.0, 0.5, 1.0])
)
failure = st.builds(
    Attempt, group=st.integers(0, 2), outcome=st.sampled_from(INFRASTRUCTURE), reward=st.sampled_from([None, 0.0, 1.0])
)


@given(st.lists(attempt, min_size=1, max_size=12), st.lists(failure, max_size=20), st.randoms())
def test_infrastructure_failures_change_no_advantage(
    attempts: list[Attempt], failures: list[Attempt], rng: Any
) -> None:
    for baseline in ("std", "mean", "leave_one_out", "none"):
        alone = group_credit(attempts, baseline)
        mixed = list(enumerate(attempts)) + [(-1, f) for f in failures]
        rng.shuffle(mixed)
        credit = group_credit([a for _, a in mixed], baseline)
        for (index, _), value, trainable in zip(mixed, credit.advantage_R, credit.trainable_R, strict=True):
            if index < 0:
                assert value == 0
                assert not trainable
            else:
                assert value == pytest.approx(alone.advantage_R[index], abs=1e-12)


def test_failures_weigh_as_much_as_the_recipe_says() -> None:
    group = [Attempt(0, Outcome.OK, reward) for reward in (1.0, 0.0, 0.0, 0.0)]
    plain = group_credit(group, "mean").advantage_R
    softer = group_credit(group, "mean", negative=0.25).advantage_R
    assert plain.tolist() == [0.75, -0.25, -0.25, -0.25]
    assert softer.tolist() == [0.75, -0.0625, -0.0625, -0.0625]


def test_scales_by_hand() -> None:
    rows = [(0, 1.0), (0, 0.0), (0, 0.0), (0, 0.0), (1, 1.0), (1, 1.0), (2, None)]
    rollouts = [Attempt(group, Outcome.OK, reward) for group, reward in rows]
    entropy_R = np.array([1.0, 2, 3, 2, 2, 2, 2])
    assert scales(rollouts, entropy_R, "none").tolist() == [1.0] * 7
    assert scales(rollouts, entropy_R, "entropy").tolist() == [0.5, 1, 1.5, 1, 1, 1, 1]
    assert scales(rollouts, entropy_R, "pass_rate").tolist() == [1.5] * 4 + [0.0] * 2 + [1.0]
