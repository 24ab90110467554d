"""From rollouts to samples: what reinforcement learning and distillation write on the tokens of real trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.run import Rollout
from palmette.train.distil import DistilConfig, fill_distillation
from palmette.train.policy import PolicyObjective
from palmette.train.rl import RlConfig, fill_outcomes
from palmette.train.samples import from_tree, to_tree
from palmette.train.score import score_samples
from palmette.train.sft import Likelihood
from palmette.train.step import gradients
from palmette.trajectory.tree import Tree

Make = Callable[..., Any]
FAILURES = [o for o in Outcome if not RULES[o].counts_in_baseline]


def _tree(rng: np.random.Generator, model: Any = None) -> Tree:
    """Return a conversation of two turns, with a second answer to the second prompt on a branch of its own."""
    tree = Tree()
    first, answer, more = (rng.integers(3, 31, n).tolist() for n in (6, 4, 3))
    tree.commit(first, answer, [-1.0] * 4, 0)
    for _ in range(2):
        tree.commit([*first, *answer, *more], rng.integers(3, 31, 5).tolist(), [-2.0] * 5, 0)
    return tree


def _rollout(group: int, reward: float | None, rng: np.random.Generator, **other: Any) -> Rollout:
    tree = _tree(rng)
    plain: dict[str, Any] = {
        "task": f"t{group}",
        "domain": "terminal",
        "sample": 0,
        "outcome": Outcome.OK,
        "turns": 2,
        "sampled_tokens": tree.num_sampled,
        "wall_s": 0.1,
        "conversation": [],
        "detail": "",
        "attempt": 1,
    }
    return Rollout(group=group, reward=reward, tree=tree, **(plain | other))


def test_a_shared_turn_is_trained_on_once() -> None:
    tree = _tree(np.random.default_rng(0))
    first, second = from_tree(tree)
    assert first.turns == ((6, 10), (13, 18))
    assert second.turns == ((13, 18),)
    assert first.num_sampled + second.num_sampled == tree.num_sampled == 14


def test_the_advantage_is_written_on_sampled_tokens_of_the_tree() -> None:
    rng = np.random.default_rng(1)
    won, lost = _rollout(0, 1.0, rng), _rollout(0, 0.0, rng)
    filled = fill_outcomes([won, lost], RlConfig(baseline="mean"))
    for sample, rollout in zip(filled.samples, filled.rollouts, strict=True):
        to_tree(rollout.tree, sample)
    for rollout, value in ((won, 0.5), (lost, -0.5)):
        for branch in rollout.tree.branches():
            assert branch.array("advantage").tolist() == [value if s else 0.0 for s in branch.sampled]
    assert filled.metrics["silent_groups"] == 0


def test_groups_without_signal_train_nothing() -> None:
    rng = np.random.default_rng(2)
    filled = fill_outcomes([_rollout(0, 1.0, rng), _rollout(0, 1.0, rng), _rollout(1, 0.0, rng)], RlConfig())
    assert filled.samples == []
    assert filled.metrics["silent_groups"] == 1.0


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(FAILURES), st.sampled_from([None, 0.0, 1.0])),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 1000),
)
def test_infrastructure_failures_change_no_gradient(
    tiny_model: Make, gradient_of: Make, failures: list[tuple[int, Outcome, float | None]], seed: int
) -> None:
    """Through the very fillers of both loops, with any number of failures in any group."""
    rng = np.random.default_rng(seed)
    model, teacher = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    good = [_rollout(g, float(r), rng) for g in range(3) for r in (1, 0, rng.integers(2))]
    bad = [_rollout(g, reward, rng, outcome=outcome) for g, outcome, reward in failures]
    config = DistilConfig(token_budget=60)

    def both(rollouts: list[Rollout]) -> torch.Tensor:
        for filled in (
            fill_outcomes(rollouts, config),
            fill_distillation(rollouts, {"terminal": teacher}, config),
        ):
            gradients(model, filled.samples, PolicyObjective(config), token_budget=60)
        return gradient_of(model)

    expected = both(good)
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(both([*bad, *good]), expected, rtol=1e-9, atol=1e-12)


def test_distillation_by_hand(tiny_model: Make) -> None:
    """A_t = rl_weight A - weight (log student - log teacher), clipped, with the teacher's own plain forward."""
    rng = np.random.default_rng(3)
    teacher = tiny_model("qwen3", seed=5)
    rollouts = [_rollout(0, 1.0, rng), _rollout(0, 0.0, rng)]
    config = DistilConfig(weight=0.5, limit=1.5, rl_weight=0.25, baseline="mean")
    filled = fill_distillation(rollouts, {"terminal": teacher}, config)
    assert len(filled.samples) == 4
    for sample, rollout in zip(filled.samples, filled.rollouts, strict=True):
        with torch.no_grad():
            ids = torch.from_numpy(sample.token_ids_T.astype(np.int64))[None]
            logp_TV = teacher(input_ids=ids).logits[0].log_softmax(-1)
        outcome = 0.5 if rollout is rollouts[0] else -0.5
        for t in np.flatnonzero(sample.sampled_T):
            gap = float(sample.logprob_T[t]) - float(logp_TV[t - 1, ids[0, t]])
            expected = 0.25 * outcome - 0.5 * float(np.clip(gap, -1.5, 1.5))
            assert sample.advantage_T[t] == pytest.approx(expected, abs=1e-6)
        assert not sample.advantage_T[~sample.sampled_T].any()


def test_a_teacher_equal_to_the_student_gives_no_gradient(tiny_model: Make, gradient_of: Make) -> None:
    rng = np.random.default_rng(4)
    model = tiny_model("qwen3")
    rollouts = [_rollout(0, None, rng, outcome=Outcome.OK, domain="swe"), _rollout(1, 1.0, rng)]
    for rollout in rollouts:  # what the engine would have recorded
        for node in rollout.tree.nodes():
            branch = rollout.tree.branch(node)
            whole = score_samples(model, [_given(branch)], 10_000)[0]
            rollout.tree.node(node).logprob = whole[-len(rollout.tree.node(node)) :]
    config = DistilConfig(rl_weight=0.0)
    filled = fill_distillation(rollouts, {"terminal": model, "swe": model}, config)
    assert filled.samples
    gradients(model, filled.samples, PolicyObjective(config), token_budget=100)
    assert float(gradient_of(model).abs().max()) < 1e-7
    assert filled.metrics["teacher_kl"] == pytest.approx(0, abs=1e-6)


def _given(branch: Any) -> Any:
    from palmette.train.samples import Sample

    return Sample(token_ids_T=branch.token_ids, sampled_T=branch.sampled, turns=branch.turns)


def test_ratio_is_one_with_recomputed_log_probs_of_real_trees(tiny_model: Make) -> None:
    rng = np.random.default_rng(5)
    model = tiny_model("llama")
    filled = fill_outcomes([_rollout(0, 1.0, rng), _rollout(0, 0.0, rng)], RlConfig())
    scores = score_samples(model, filled.samples, 1000)
    samples = [replace(s, old_logprob_T=score_T) for s, score_T in zip(filled.samples, scores, strict=True)]
    sums = gradients(model, samples, PolicyObjective(RlConfig(ratio="turn")), token_budget=1000)
    assert sums["ratio_mean"] == pytest.approx(1.0, abs=1e-6)  # old log-probs are kept in fp32
    assert sums["clipped"] == 0


def test_a_domain_without_teacher_is_an_error(tiny_model: Make) -> None:
    rollouts = [_rollout(0, 1.0, np.random.default_rng(0), domain="swe")]
    with pytest.raises(ValueError, match="no teacher for domain 'swe'"):
        fill_distillation(rollouts, {"terminal": tiny_model("llama")}, DistilConfig())


def test_each_branch_may_count_a_shared_turn(tiny_model: Make) -> None:
    tree = _tree(np.random.default_rng(0))
    assert [s.num_sampled for s in from_tree(tree)] == [9, 5]
    each = from_tree(tree, shared="each")
    assert [s.num_sampled for s in each] == [9, 9]
    model = tiny_model("qwen3")
    found = []
    for as_tree in (True, False):
        model.zero_grad()
        gradients(model, each, Likelihood(), token_budget=7, tree=as_tree)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-6  # RMS norms count in fp32
