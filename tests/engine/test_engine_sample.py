"""Drawing tokens against the textbook definition, one row at a time."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.engine.sample import Draws, draw, uniforms


def _allowed(logits: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Probabilities of the ids that may be drawn: temperature, then top-k, then the smallest set of mass top-p."""
    p = np.exp(np.array(logits) / temperature - max(logits) / temperature)
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: top_k or len(p)]
    total, mass, kept = sum(p[i] for i in order), 0.0, {}
    for i in order:
        if mass >= top_p * total:
            break
        kept[i] = p[i]
        mass += p[i]
    return {i: value / mass for i, value in kept.items()}


def _draws(rows: list[tuple[float, int, float, int]]) -> Draws:
    return Draws(
        temperature_R=np.array([r[0] for r in rows], dtype=np.float64),
        top_k_R=np.array([r[1] for r in rows], dtype=np.int64),
        top_p_R=np.array([r[2] for r in rows], dtype=np.float64),
        seed_R=np.array([r[3] for r in rows], dtype=np.uint64),
    )


_ROW = st.tuples(
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([1.0, 0.93, 0.41, 0.07]),
    st.integers(0, 2**64 - 1),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=6), noise=st.integers(0, 2**31), count=st.integers(0, 99))
def test_draws_are_the_textbooks(rows: list[tuple[float, int, float, int]], noise: int, count: int) -> None:
    """Each row's id is the inverse CDF of its own distribution at its own uniform number, whoever is beside it."""
    logits_RV = torch.randn(len(rows), 11, generator=torch.Generator().manual_seed(noise)) * 2
    count_R = np.full(len(rows), count)
    ids_R, logprobs_R = draw(logits_RV, _draws(rows), count_R)
    for r, (temperature, top_k, top_p, seed) in enumerate(rows):
        token = int(ids_R[r])
        assert abs(float(logprobs_R[r]) - float(torch.log_softmax(logits_RV[r], -1)[token])) < 1e-6
        if temperature == 0:
            assert token == int(logits_RV[r].argmax())
            continue
        allowed = _allowed(logits_RV[r].tolist(), temperature, top_k, top_p)
        assert token in allowed
        below = sum(p for i, p in allowed.items() if i < token)
        uniform = float(uniforms(np.array([seed], dtype=np.uint64), np.array([count]))[0])
        assert below - 1e-5 <= uniform <= below + allowed[token] + 1e-5


def test_uniforms_are_uniform_and_independent() -> None:
    """Over seeds and over positions: means, variances and lag correlation within five standard errors."""
    n = 20_000
    zeros = np.zeros(n, dtype=np.uint64)
    for seeds, counts in ((np.arange(n, dtype=np.uint64), zeros), (zeros, np.arange(n))):
        u = uniforms(seeds, counts)
        assert 0 <= u.min() <= u.max() < 1
        assert abs(u.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
        assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5 / n**0.5
