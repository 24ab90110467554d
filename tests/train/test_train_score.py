"""Scores of samples: the same from the tree they make, at any budget, as from each on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from palmette.train.samples import Sample, from_demonstration
from palmette.train.score import score_samples

Make = Callable[..., Any]


def _samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    trunk = rng.integers(3, 31, 14)
    rows = [np.concatenate([trunk[:cut], rng.integers(3, 31, n)]) for cut, n in ((14, 9), (14, 5), (6, 8), (0, 11))]
    rows += [trunk, rows[0], trunk[:1]]
    return [from_demonstration(row.tolist(), [False, *(rng.random(len(row) - 1) < 0.7)]) for row in rows]


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
@torch.no_grad()
def test_scores_equal_a_plain_forward(architecture: str, tree: bool, tiny_model: Make) -> None:
    model = tiny_model(architecture)
    samples = _samples()
    for budget in (10_000, 20, 3):
        for sample, score_T in zip(samples, score_samples(model, samples, budget, tree=tree), strict=True):
            ids = torch.from_numpy(sample.token_ids_T.astype(np.int64))
            logp_TV = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            expected_T = np.zeros(len(ids))
            for t in np.flatnonzero(sample.sampled_T):
                expected_T[t] = logp_TV[t - 1, ids[t]]
            assert score_T.dtype == np.float32
            np.testing.assert_allclose(score_T, expected_T, rtol=1e-6)


def test_no_samples_no_scores(tiny_model: Make) -> None:
    assert score_samples(tiny_model("llama"), [], 10) == []
    given = from_demonstration([4, 5], [False, False])
    assert [score.tolist() for score in score_samples(tiny_model("llama"), [given], 10)] == [[0, 0]]
