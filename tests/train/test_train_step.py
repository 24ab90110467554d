"""The step on real tiny models: the shift, and gradients that do not depend on how samples are batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from palmette.train import pack
from palmette.train.forward import Answer
from palmette.train.losses import Terms
from palmette.train.optim import OptimConfig, Optimiser, lr_factor
from palmette.train.pack import Pass
from palmette.train.pairs import Pairs
from palmette.train.partition import look
from palmette.train.policy import OnPolicyConfig, PolicyObjective
from palmette.train.samples import Sample, Totals, from_demonstration
from palmette.train.score import score_samples
from palmette.train.sft import Likelihood
from palmette.train.step import gradients, train_step

Make = Callable[..., Any]


def _objective(ratio: Any = "turn", exponent: Any = "geometric_mean") -> PolicyObjective:
    return PolicyObjective(OnPolicyConfig(ratio=ratio, exponent=exponent))


def _samples(random_sample: Make, model: Any, count: int = 7) -> list[Sample]:
    rng = np.random.default_rng(3)
    samples = [random_sample(rng, int(n)) for n in rng.integers(8, 40, count)]
    scores = score_samples(model, samples, 10_000)
    return [
        replace(s, old_logprob_T=((score_T + 0.05 * rng.normal(size=len(score_T))) * s.sampled_T).astype(np.float32))
        for s, score_T in zip(samples, scores, strict=True)
    ]


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "qwen3_moe"])
@torch.no_grad()
def test_log_probs_equal_a_plain_forward(architecture: str, tree: bool, tiny_model: Make, random_sample: Make) -> None:
    """The off-by-one trap: token t is predicted by a forward of tokens < t alone."""
    model = tiny_model(architecture)
    rng = np.random.default_rng(0)
    samples = [random_sample(rng, 9), random_sample(rng, 17)]
    plan = (pack.tree if tree else pack.flat)(samples, 100)
    logprob_M = torch.zeros(len(plan.pairs), dtype=torch.float64)

    def keep(asked: Pass, answer: Answer) -> None:
        logprob_M[asked.pair_M] = answer.logprob_E[asked.edge_M]

    look(model, plan, keep)
    expected, entropies = [], []
    for sample in samples:
        ids = torch.from_numpy(sample.token_ids_T.astype(np.int64))
        for t in np.flatnonzero(sample.sampled_T):
            distribution = model(input_ids=ids[None, :t]).logits[0, -1].log_softmax(-1)
            expected.append(float(distribution[ids[t]]))
            entropies.append(float(-(distribution.exp() * distribution).sum()))
    assert logprob_M.tolist() == pytest.approx(expected, abs=1e-10)
    with torch.enable_grad():
        sums = gradients(model, samples, Likelihood(), token_budget=100, tree=tree, entropy=True)
    assert sums["entropy"] == pytest.approx(float(np.mean(entropies)), abs=1e-10)


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_gradient_does_not_depend_on_batching(
    architecture: str, ratio: str, tree: bool, tiny_model: Make, random_sample: Make, gradient_of: Make
) -> None:
    model = tiny_model(architecture)
    samples = _samples(random_sample, model)
    objective = _objective(ratio)
    whole = gradients(model, samples, objective, token_budget=10_000, tree=False, entropy=True)
    expected = gradient_of(model)
    assert expected.abs().max() > 1e-4
    for budget, order in ((8 if tree else 1, range(7)), (90, range(7)), (90, [3, 1, 6, 0, 2, 5, 4])):
        got = gradients(model, [samples[i] for i in order], objective, token_budget=budget, tree=tree, entropy=True)
        torch.testing.assert_close(gradient_of(model), expected, rtol=1e-9, atol=1e-12)
        assert {name: got[name] for name in whole} == pytest.approx(whole, rel=1e-9, abs=1e-12)


def _forest(random_sample: Make, model: Any) -> list[Sample]:
    """Return branches of one tree that share sampled tokens and disagree on their advantages, and a prefix of one."""
    rng = np.random.default_rng(4)
    trunk = random_sample(rng, 24)
    samples = [trunk]
    for keep in (24, 24, 17, 17, 9):
        tail = random_sample(rng, 16)
        turns = [(start, min(end, keep)) for start, end in trunk.turns if start < keep]
        turns += [(start + keep, end + keep) for start, end in tail.turns]
        ids_T = np.concatenate([trunk.token_ids_T[:keep], tail.token_ids_T])
        sampled_T = np.concatenate([trunk.sampled_T[:keep], tail.sampled_T])
        samples.append(Sample(token_ids_T=ids_T, sampled_T=sampled_T, turns=tuple(turns)))

    def noisy(known_T: np.ndarray, sample: Sample, size: float) -> np.ndarray:
        return ((known_T + size * rng.normal(size=len(known_T))) * sample.sampled_T).astype(np.float32)

    filled = []
    scores = score_samples(model, samples, 10_000, tree=False)
    for number, (sample, score_T) in enumerate(zip(samples, scores, strict=True)):
        drift = 0.3 * (-1) ** number  # so that whole sequences are clipped too
        own = rng.normal() * np.ones(len(score_T)) if rng.random() < 0.5 else rng.normal(size=len(score_T))
        filled.append(
            replace(
                sample,
                advantage_T=noisy(own, sample, 0),
                old_logprob_T=noisy(score_T + drift, sample, 0.3),
                logprob_T=noisy(score_T, sample, 0.8),
                reference_logprob_T=noisy(score_T, sample, 0.5),
                mismatch_T=noisy(score_T, sample, 0.8) - score_T,
            )
        )
    return filled


_FORMS = [
    {"ratio": ratio, "exponent": exponent, "mean": mean}
    for ratio in ("token", "turn", "sequence")
    for exponent in ("product", "geometric_mean")
    for mean in ("units", "sample")
]
_MORE: list[dict[str, Any]] = [
    {"reference_kl": 0.3},
    {"gate": "tis"},
    {"gate": "icepop", "ratio": "turn", "reference_kl": 0.1},
    {"gate": "icepop", "ratio": "turn", "gate_unit": "ratio"},
    {"gate": "icepop", "ratio": "sequence", "gate_unit": "ratio", "mean": "sample"},
]


@pytest.mark.parametrize("form", [*_FORMS, *_MORE], ids=lambda form: " ".join(map(str, form.values())))
def test_policy_gradients_of_a_tree_are_those_of_its_branches(
    form: dict[str, Any], tiny_model: Make, random_sample: Make, gradient_of: Make, exact: Any
) -> None:
    model = tiny_model("llama")
    samples = _forest(random_sample, model)
    objective = PolicyObjective(OnPolicyConfig(clip_low=0.2, clip_high=0.28, **form))
    with exact():
        flat = gradients(model, samples, objective, token_budget=10_000, tree=False, entropy=True)
    expected = gradient_of(model)
    assert 0.05 < flat["clipped"] < 0.95
    assert expected.abs().max() > 1e-3
    for budget, recompute in ((10_000, False), (30, False), (9, False), (30, True)):
        with exact():
            got = gradients(model, samples, objective, token_budget=budget, recompute=recompute, entropy=True)
        torch.testing.assert_close(gradient_of(model), expected, rtol=1e-9, atol=1e-12)
        assert {name: got[name] for name in flat} == pytest.approx(flat, rel=1e-9, abs=1e-12)
        assert got["tree_tokens"] == 24 + 5 * 16
        assert got["por"] == pytest.approx(1 - 104 / (24 + 2 * 40 + 2 * 33 + 25))


def test_the_likelihood_of_a_tree_is_that_of_its_branches(
    tiny_model: Make, random_sample: Make, gradient_of: Make, exact: Any
) -> None:
    model = tiny_model("qwen3_moe")
    samples = _forest(random_sample, model)
    with exact():
        flat = gradients(model, samples, Likelihood(), token_budget=10_000, tree=False)
    expected = gradient_of(model)
    for budget in (10_000, 30):
        with exact():
            got = gradients(model, samples, Likelihood(), token_budget=budget)
        torch.testing.assert_close(gradient_of(model), expected, rtol=1e-9, atol=1e-12)
        assert {name: got[name] for name in flat} == pytest.approx(flat, rel=1e-9)


def test_given_tokens_train_nothing(tiny_model: Make, gradient_of: Make) -> None:
    """Changing what is sampled changes the gradient; the targets of given tokens never enter it."""
    model = tiny_model("llama")
    ids = [4, 5, 6, 7, 8]
    last = from_demonstration(ids, [False, False, False, False, True])
    gradients(model, [last], Likelihood(), token_budget=100)
    got = gradient_of(model)
    logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
    (-logits.log_softmax(-1)[ids[-1]]).backward()
    torch.testing.assert_close(got, gradient_of(model), rtol=1e-9, atol=1e-12)


def test_ratio_is_exactly_one_at_the_first_update(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    rng = np.random.default_rng(1)
    samples = [random_sample(rng, 20) for _ in range(5)]
    scores = score_samples(model, samples, token_budget=64)
    samples = [replace(s, old_logprob_T=score_T) for s, score_T in zip(samples, scores, strict=True)]
    for ratio in ("token", "turn", "sequence"):
        sums = gradients(model, samples, _objective(ratio), token_budget=64)
        assert sums["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
        assert sums["kl"] == 0.0
        assert sums["clipped"] == 0.0


def test_a_step_lowers_the_loss_and_reports(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    optimiser = Optimiser(model, OptimConfig(lr=1e-2, warmup=0), total_steps=30)
    rng = np.random.default_rng(2)
    samples = [random_sample(rng, 24) for _ in range(4)]
    rows = [train_step(model, optimiser, samples, Likelihood(), token_budget=64) for _ in range(30)]
    assert rows[-1]["nll"] < 0.5 * rows[0]["nll"]
    assert rows[0]["tokens"] == 96
    assert rows[0]["tokens_per_s"] > 0
    assert optimiser.updates == 30


def test_a_gradient_that_is_not_finite_is_dropped(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    optimiser = Optimiser(model, OptimConfig(), total_steps=2)
    before = [p.clone() for p in model.parameters()]

    class Broken:
        pointwise = True

        def __call__(self, logprob_M: torch.Tensor, pairs: Pairs, totals: Totals, also_MK: Any = None) -> Terms:
            return logprob_M.sum() * float("nan"), {}

    row = train_step(model, optimiser, [random_sample(np.random.default_rng(0), 9)], Broken(), token_budget=64)
    assert row["dropped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_training_mode_is_refused(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model().train()
    with pytest.raises(ValueError, match="eval mode"):
        gradients(model, [random_sample(np.random.default_rng(0), 9)], Likelihood(), token_budget=64)


def test_schedule_by_hand() -> None:
    config = OptimConfig(lr=1.0, warmup=0.2, decay="linear", final=0.1)
    got = [lr_factor(u, 10, config) for u in (0, 1, 2, 6, 10)]
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    cosine = OptimConfig(lr=1.0, warmup=0, decay="cosine", final=0.0)
    assert lr_factor(5, 10, cosine) == pytest.approx(0.5)
