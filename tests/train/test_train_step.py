"""The step on real tiny models: the shift, and gradients that do not depend on how samples are batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from palmette.train.forward import recompute_old, score_samples, token_logprobs
from palmette.train.losses import Clip, Terms, nll, policy_gradient
from palmette.train.optim import OptimConfig, Optimiser, lr_factor
from palmette.train.samples import Batch, Sample, Totals, collate, from_demonstration
from palmette.train.step import gradients, train_step

Make = Callable[..., Any]


def _objective(ratio: Any = "turn", exponent: Any = "geometric_mean") -> Any:
    def objective(logprob_BT: torch.Tensor, batch: Batch, totals: Totals) -> Terms:
        return policy_gradient(
            logprob_BT,
            batch.old_logprob_BT,
            batch.advantage_BT,
            batch.turn_BT,
            totals,
            ratio=ratio,
            exponent=exponent,
            clip=Clip(low=0.2, high=0.28),
        )

    return objective


def _nll(logprob_BT: torch.Tensor, batch: Batch, totals: Totals) -> Terms:
    return nll(logprob_BT, batch.sampled_BT, totals)


def _samples(random_sample: Make, model: Any, count: int = 7) -> list[Sample]:
    rng = np.random.default_rng(3)
    samples = [random_sample(rng, int(n)) for n in rng.integers(8, 40, count)]
    scores = score_samples(model, samples, 10_000)
    return [
        replace(s, old_logprob_T=((score_T + 0.05 * rng.normal(size=len(score_T))) * s.sampled_T).astype(np.float32))
        for s, score_T in zip(samples, scores, strict=True)
    ]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "qwen3_moe"])
@torch.no_grad()
def test_log_probs_equal_a_plain_forward(architecture: str, tiny_model: Make, random_sample: Make) -> None:
    """The off-by-one trap: token t is predicted by a forward of tokens < t alone."""
    model = tiny_model(architecture)
    rng = np.random.default_rng(0)
    samples = [random_sample(rng, 9), random_sample(rng, 17)]
    logprob_BT, entropy = token_logprobs(model, collate(samples), entropy=True)
    entropies = []
    for row, sample in zip(logprob_BT, samples, strict=True):
        ids = torch.from_numpy(sample.token_ids_T.astype(np.int64))
        for t in range(len(row)):
            if t >= len(ids) or not sample.sampled_T[t]:
                assert row[t] == 0
                continue
            distribution = model(input_ids=ids[None, :t]).logits[0, -1].log_softmax(-1)
            assert float(row[t].detach()) == pytest.approx(float(distribution[ids[t]]), abs=1e-10)
            entropies.append(float(-(distribution.exp() * distribution).sum()))
    assert entropy is not None
    assert float(entropy) == pytest.approx(float(np.sum(entropies)), abs=1e-10)


@pytest.mark.parametrize("ratio", ["token", "turn", "sequence"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_gradient_does_not_depend_on_batching(
    architecture: str, ratio: str, tiny_model: Make, random_sample: Make, gradient_of: Make
) -> None:
    model = tiny_model(architecture)
    samples = _samples(random_sample, model)
    objective = _objective(ratio)
    whole = gradients(model, samples, objective, token_budget=10_000, entropy=True)
    expected = gradient_of(model)
    assert expected.abs().max() > 1e-4
    for budget, order in ((1, range(7)), (90, range(7)), (90, [3, 1, 6, 0, 2, 5, 4])):
        got = gradients(model, [samples[i] for i in order], objective, token_budget=budget, entropy=True)
        torch.testing.assert_close(gradient_of(model), expected, rtol=1e-9, atol=1e-12)
        assert got == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_given_tokens_train_nothing(tiny_model: Make, gradient_of: Make) -> None:
    """Changing what is sampled changes the gradient; the targets of given tokens never enter it."""
    model = tiny_model("llama")
    ids = [4, 5, 6, 7, 8]
    last = from_demonstration(ids, [False, False, False, False, True])
    gradients(model, [last], _nll, token_budget=100)
    got = gradient_of(model)
    logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
    (-logits.log_softmax(-1)[ids[-1]]).backward()
    torch.testing.assert_close(got, gradient_of(model), rtol=1e-9, atol=1e-12)


def test_ratio_is_exactly_one_at_the_first_update(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    rng = np.random.default_rng(1)
    samples = recompute_old(model, [random_sample(rng, 20) for _ in range(5)], token_budget=64)
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
    rows = [train_step(model, optimiser, samples, _nll, token_budget=64) for _ in range(30)]
    assert rows[-1]["nll"] < 0.5 * rows[0]["nll"]
    assert rows[0]["tokens"] == 96
    assert rows[0]["tokens_per_s"] > 0
    assert optimiser.updates == 30


def test_a_gradient_that_is_not_finite_is_dropped(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    optimiser = Optimiser(model, OptimConfig(), total_steps=2)
    before = [p.clone() for p in model.parameters()]

    def broken(logprob_BT: torch.Tensor, batch: Batch, totals: Totals) -> Terms:
        return logprob_BT.sum() * float("nan"), {}

    row = train_step(model, optimiser, [random_sample(np.random.default_rng(0), 9)], broken, token_budget=64)
    assert row["dropped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_training_mode_is_refused(tiny_model: Make, random_sample: Make) -> None:
    model = tiny_model().train()
    with pytest.raises(ValueError, match="eval mode"):
        gradients(model, [random_sample(np.random.default_rng(0), 9)], _nll, token_budget=64)


def test_schedule_by_hand() -> None:
    config = OptimConfig(lr=1.0, warmup=0.2, decay="linear", final=0.1)
    got = [lr_factor(u, 10, config) for u in (0, 1, 2, 6, 10)]
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    cosine = OptimConfig(lr=1.0, warmup=0, decay="cosine", final=0.0)
    assert lr_factor(5, 10, cosine) == pytest.approx(0.5)
