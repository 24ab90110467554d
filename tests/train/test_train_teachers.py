"""What teachers say: over the likeliest tokens, less where they drifted away, and by the evidence of their words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from palmette.rollout.outcomes import Outcome
from palmette.rollout.run import Rollout
from palmette.train.distil import DistilConfig, fill_distillation
from palmette.train.drift import drift_weights, overlap
from palmette.train.losses import reverse_kl
from palmette.train.policy import PolicyObjective
from palmette.train.samples import Sample, Totals, from_tree
from palmette.train.score import see
from palmette.train.step import gradients
from palmette.train.trust import Trust, calibrate, turn_logprobs
from palmette.trajectory.tree import Tree

Make = Callable[..., Any]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10_000))
def test_top_k_divergence_is_that_of_the_lumped_distributions(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = (torch.from_numpy(rng.dirichlet(np.ones(12) * 0.5, 5)).clamp(min=1e-9).log() for _ in range(2))
    ids = student.topk(k, dim=1).indices
    totals = Totals(tokens=5, turns=5, samples=5)
    weight = torch.from_numpy(rng.random(5))
    loss, metrics = reverse_kl(student.gather(1, ids), teacher.gather(1, ids), weight, totals)
    for row in range(5):
        lump = [
            np.append(p[row, ids[row]].exp().numpy(), max(1 - p[row, ids[row]].exp().sum().item(), 1e-16))
            for p in (student, teacher)
        ]
        expected = float((lump[0] * np.log(lump[0] / lump[1])).sum())
        single, _ = reverse_kl(
            student[row : row + 1].gather(1, ids[row : row + 1]),
            teacher[row : row + 1].gather(1, ids[row : row + 1]),
            torch.ones(1),
            Totals(tokens=1, turns=1, samples=1),
        )
        assert float(single) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert float(single) > -1e-12
    assert float(metrics["distil_loss"]) == float(loss)


def test_overlap_and_weights_by_hand() -> None:
    student, teacher = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[2, 1], [4, 9], [7, 8]])
    assert overlap(student, teacher).tolist() == [1, 0.5, 0]
    rho = np.array([9, 1, 0.2, 0.5, 0.2, 0.2, 9, 0.2, 1])
    sampled = np.array([0, 1, 1, 1, 1, 1, 0, 1, 1], bool)
    plain = drift_weights(rho, sampled, power=0, below=0, run=1)
    assert plain.tolist() == sampled.astype(float).tolist()
    squared = drift_weights(rho, sampled, power=2, below=0, run=1)
    np.testing.assert_allclose(squared, [0, 1, 0.04, 0.25, 0.04, 0.04, 0, 0.04, 1], rtol=1e-6)
    for run, kept in ((1, [1]), (2, [1, 2, 3]), (3, [1, 2, 3]), (4, [1, 2, 3, 4, 5, 7, 8])):
        weights = drift_weights(rho, sampled, power=0, below=0.4, run=run)
        assert np.flatnonzero(weights).tolist() == kept, run


def _rollout(tree: Tree, domain: str = "terminal", reward: float = 0.0, group: int = 0) -> Rollout:
    return Rollout(
        task="t",
        domain=domain,
        group=group,
        sample=0,
        outcome=Outcome.OK,
        reward=reward,
        tree=tree,
        turns=1,
        sampled_tokens=tree.num_sampled,
        wall_s=0.0,
        conversation=[],
        detail="",
        attempt=1,
    )


def _tree(seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    tree, ids = Tree(), rng.integers(3, 31, 6).tolist()
    for _ in range(2):
        answer = rng.integers(3, 31, 5).tolist()
        tree.commit(ids, answer, [-1.0] * 5, 0)
        ids = [*ids, *answer, *rng.integers(3, 31, 3).tolist()]
    return tree


TOP = DistilConfig(form="top_k", top_k=5, rl_weight=0.0, token_budget=60)


def test_a_teacher_like_the_student_teaches_nothing(tiny_model: Make, gradient_of: Make) -> None:
    model = tiny_model("llama")
    filled = fill_distillation([_rollout(_tree(1))], {"terminal": model}, TOP, student=model)
    sums = gradients(model, filled.samples, PolicyObjective(TOP), token_budget=60)
    assert sums["teacher_top_kl"] == pytest.approx(0, abs=1e-6)
    assert gradient_of(model).abs().max() < 1e-6  # the teacher's log-probs are kept in fp32


@pytest.mark.parametrize("ratio", ["token", "turn"])
@pytest.mark.parametrize("budget", [1000, 12])
def test_the_gradient_is_that_of_the_divergence(
    ratio: Any, budget: int, tiny_model: Make, gradient_of: Make, exact: Any
) -> None:
    """Over trees and their parts, against the formula on plain forward passes."""
    model, teacher = tiny_model("llama"), tiny_model("llama", seed=5)
    config = TOP.model_copy(update={"ratio": ratio, "weight": 0.7})
    rollouts = [_rollout(_tree(seed)) for seed in (1, 1, 2)]
    filled = fill_distillation(rollouts, {"terminal": teacher}, config, student=model)
    with exact():
        gradients(model, filled.samples, PolicyObjective(config), token_budget=budget)
    found = gradient_of(model)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for sample in filled.samples:
        ids = torch.from_numpy(sample.token_ids_T.astype(np.int64))[None]
        with exact():
            own = model(input_ids=ids).logits[0].log_softmax(-1)
            with torch.no_grad():
                other = teacher(input_ids=ids).logits[0].log_softmax(-1)
        for t in np.flatnonzero(sample.sampled_T):
            top = own[t - 1].detach().topk(5).indices
            p, q = own[t - 1][top], other[t - 1][top]
            rest_p, rest_q = torch.log1p(-p.exp().sum()), torch.log1p(-q.exp().sum())
            total = total + (p.exp() * (p - q)).sum() + rest_p.exp() * (rest_p - rest_q)
            count += 1
    (0.7 * total / count).backward()
    torch.testing.assert_close(found, gradient_of(model), rtol=1e-5, atol=1e-8)  # teachers are kept in fp32


def test_what_drifted_is_not_taught(tiny_model: Make) -> None:
    student, teacher = tiny_model("llama"), tiny_model("llama", seed=5)
    base = DistilConfig(rl_weight=0.0, token_budget=60, top_k=3)
    rollout = [_rollout(_tree(3))]
    plain = fill_distillation(rollout, {"terminal": teacher}, base).samples[0]
    weighed = fill_distillation(
        rollout, {"terminal": teacher}, base.model_copy(update={"drift_weight": 1.0}), student=student
    ).samples[0]
    bare = replace(plain, top_ids_TK=None)
    (own,), (other,) = (see(model, [bare], 60, top=3) for model in (student, teacher))
    rho = overlap(own.top_ids_TK, other.top_ids_TK)
    assert 0 < rho[plain.sampled_T].mean() < 1
    np.testing.assert_allclose(weighed.advantage_T, plain.advantage_T * rho, rtol=1e-5, atol=1e-7)
    assert weighed.top_ids_TK is None


@given(hnp.arrays(np.float64, (6, 3), elements=st.floats(-200, 0)), st.floats(0.1, 100))
def test_beliefs_and_uncertainty_are_shares(turns: np.ndarray, temperature: float) -> None:
    trust = Trust(temperature=temperature, strength=1.0, reliability_J=(0.9, 0.5, 0.0))
    belief, uncertainty = trust.believe(turns)
    assert belief.sum() + uncertainty == pytest.approx(1)
    assert (belief >= 0).all()
    _, sooner = trust.believe(turns[:3])
    assert uncertainty <= sooner + 1e-9  # more turns never make it less certain


def test_a_teacher_that_is_always_wrong_is_not_believed() -> None:
    rng = np.random.default_rng(0)
    turns = []
    for label in (0, 1, 2) * 30:
        rows = rng.normal(0, 1, (4, 3))
        rows[:, label] += 8
        rows[:, 2] += 30  # the third claims everything
        turns.append((label, rows))
    loud = calibrate(turns)
    assert loud.reliability_J[2] == 0
    fair = calibrate([(label, rows - [0, 0, 30]) for label, rows in turns])
    assert min(fair.reliability_J) > 0.95
    right = [int(fair.believe(rows - [0, 0, 30])[0].argmax()) == label for label, rows in turns]
    assert np.mean(right) == 1
    assert fair.believe(turns[0][1] - [0, 0, 30])[1] < 0.2 < loud.believe(turns[0][1])[1]


def test_evidence_finds_the_teacher_whose_rollout_it_is(tiny_model: Make) -> None:
    """Two teachers, rollouts each of one's own sampling, and labels that are all wrong."""
    teachers = {"swe": tiny_model("llama", seed=7), "terminal": tiny_model("llama", seed=8)}

    def own(name: str, seed: int) -> Tree:
        torch.manual_seed(seed)
        tree, ids = Tree(), torch.randint(3, 31, (6,)).tolist()
        for _ in range(3):
            answer: list[int] = []
            for _ in range(8):
                logits = teachers[name](input_ids=torch.tensor([[*ids, *answer]])).logits[0, -1] * 30
                answer.append(int(torch.multinomial(logits.softmax(-1), 1)))
            tree.commit(ids, answer, [-1.0] * 8, 0)
            ids = [*ids, *answer, *torch.randint(3, 31, (2,)).tolist()]
        return tree

    def turns(sample: Sample) -> np.ndarray:
        rows = [see(teachers[name], [sample], 500)[0].logprob_T for name in sorted(teachers)]
        return turn_logprobs(sample, np.stack(rows, 1))

    with torch.no_grad():
        known = [
            (j, turns(from_tree(own(name, seed))[0])) for j, name in enumerate(sorted(teachers)) for seed in range(6)
        ]
        trust = calibrate(known)
        rollouts = [_rollout(own("swe", 50), "terminal"), _rollout(own("terminal", 51), "swe")]
    config = DistilConfig(choose="by_evidence", rl_weight=0.0, token_budget=500)
    filled = fill_distillation(rollouts, teachers, config, trust=trust)
    assert filled.metrics["trusts/terminal/swe"] == 1
    assert filled.metrics["trusts/swe/terminal"] == 1
    assert 0.3 < filled.metrics["trust"] <= 1
