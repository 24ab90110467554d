"""Losses against numbers worked out by hand, and against the plain formulas written with loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.train.losses import (
    Clip,
    distillation_advantage,
    gate_weights,
    kl_to_reference,
    nll,
    policy_gradient,
)
from palmette.train.pairs import Pairs
from palmette.train.samples import Sample, Totals

F64 = torch.float64
LOG2, LOG3 = math.log(2), math.log(3)
WIDE = Clip(low=0.99, high=99)


def _row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=F64)


def _sample(turn_T: torch.Tensor) -> Sample:
    """Return a sample whose turns are numbered in `turn_T`, -1 where a token was given."""
    numbers = range(int(turn_T.max()) + 1)
    places = [np.flatnonzero(turn_T.numpy() == number) for number in numbers]
    return Sample(
        token_ids_T=np.arange(len(turn_T)),
        sampled_T=turn_T.numpy() >= 0,
        turns=tuple((int(place[0]), int(place[-1]) + 1) for place in places),
    )


def _pg(logprob: torch.Tensor, advantage: torch.Tensor, turn: torch.Tensor, **options: Any) -> tuple[Any, Any]:
    """Run the loss on the pairs of padded rows; `turn` is -1 on tokens that were given or are padding."""
    sampled = turn >= 0
    samples = [_sample(row) for row in turn]
    totals = Totals.of(samples)
    old = options.pop("old", torch.zeros_like(logprob))
    pairs = replace(Pairs.of(samples), old_logprob_M=old[sampled], advantage_M=advantage[sampled])
    defaults: dict[str, Any] = {"ratio": "turn", "exponent": "product", "clip": WIDE}
    return policy_gradient(logprob[sampled], pairs, totals, **(defaults | options))


# One given token, a turn of two tokens with ratios 2 and 3, a given token, a turn of one token with ratio 1/2.
RATIOS = _row(0, LOG2, LOG3, 0, -LOG2)
TURN = torch.tensor([[-1, 0, 0, -1, 1]])
ADVANTAGE = _row(0, 1, 1, 0, -2)


@pytest.mark.parametrize(
    ("ratio", "exponent", "expected"),
    [
        ("token", "product", (2 * 1 + 3 * 1 + 0.5 * -2) / 3),
        ("turn", "product", (6 * 1 + 0.5 * -2) / 2),
        ("turn", "geometric_mean", (math.sqrt(6) * 1 + 0.5 * -2) / 2),
        ("sequence", "product", 3 * (1 + 1 - 2) / 3),
        ("sequence", "geometric_mean", 3 ** (1 / 3) * (1 + 1 - 2) / 3),
    ],
)
def test_unclipped_objective_by_hand(ratio: str, exponent: str, expected: float) -> None:
    loss, _ = _pg(RATIOS, ADVANTAGE, TURN, ratio=ratio, exponent=exponent)
    assert float(loss) == pytest.approx(-expected, abs=1e-12)


def test_clipping_by_hand() -> None:
    # Turn ratios 6 (A=1, clipped to 1.28) and 0.5 (A=-2, clipped to 0.8): min(6, 1.28) and min(-1, -1.6).
    loss, metrics = _pg(RATIOS, ADVANTAGE, TURN, clip=Clip(low=0.2, high=0.28))
    assert float(loss) == pytest.approx(-(1.28 - 1.6) / 2, abs=1e-12)
    assert float(metrics["clipped"]) == pytest.approx(1.0)
    assert float(metrics["ratio_mean"]) == pytest.approx((6 + 0.5) / 2)
    kl = sum(r - 1 - math.log(r) for r in (2, 3, 0.5)) / 3
    assert float(metrics["kl"]) == pytest.approx(kl)


def test_clipped_units_have_no_gradient_and_the_others_do() -> None:
    logprob = _row(0, LOG2, LOG3, 0, 0.0).requires_grad_()
    loss, _ = _pg(logprob, _row(0, 1, 1, 0, 1), TURN, clip=Clip(low=0.2, high=0.28))
    loss.backward()
    assert logprob.grad is not None
    assert logprob.grad.tolist() == [[0, 0, 0, 0, -0.5]]


def test_mean_by_sample_gives_each_sequence_the_same_weight() -> None:
    turn = torch.tensor([[-1, 0, 1, 2], [-1, 0, -1, -1]])
    zeros = torch.zeros(2, 4, dtype=F64)
    advantage = torch.tensor([[0, 1, 1, 1], [0, 5, 0, 0]], dtype=F64)
    assert float(_pg(zeros, advantage, turn, mean="units")[0]) == pytest.approx(-(3 + 5) / 4)
    assert float(_pg(zeros, advantage, turn, mean="sample")[0]) == pytest.approx(-(1 + 5) / 2)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["token", "turn", "sequence"]),
    st.sampled_from(["product", "geometric_mean"]),
    st.integers(0, 10**6),
)
def test_value_and_gradient_equal_the_printed_formula(ratio: str, exponent: str, seed: int) -> None:
    """mean over units of min(r A, clip(r) A), written with loops, for advantages constant over a unit."""
    rng = torch.Generator().manual_seed(seed)
    turn = torch.tensor([[-1, 0, 0, 0, -1, 1, 1], [-1, -1, 0, -1, -1, -1, -1]])
    logprob = (torch.randn(2, 7, generator=rng, dtype=F64) * 0.3).requires_grad_()
    old = torch.randn(2, 7, generator=rng, dtype=F64) * 0.3
    advantage = torch.randn(2, 1, generator=rng, dtype=F64).expand(2, 7)
    clip = Clip(low=0.2, high=0.28)
    loss, _ = _pg(logprob, advantage, turn, ratio=ratio, exponent=exponent, clip=clip, old=old)
    (gradient,) = torch.autograd.grad(loss, logprob)

    units: list[list[tuple[int, int]]] = []
    for row in range(2):
        tokens = [(row, t) for t in range(7) if turn[row, t] >= 0]
        if ratio == "token":
            units += [[place] for place in tokens]
        elif ratio == "sequence":
            units.append(tokens)
        else:
            units += [[p for p in tokens if turn[p] == n] for n in range(int(turn[row].max()) + 1)]
    terms = []
    for unit in units:
        log_r = torch.stack([logprob[p] - old[p] for p in unit]).sum()
        r = (log_r / (len(unit) if exponent == "geometric_mean" else 1)).exp()
        a = advantage[unit[0]]
        terms.append(torch.minimum(r * a, r.clamp(0.8, 1.28) * a))
    expected = -torch.stack(terms).mean()
    (expected_gradient,) = torch.autograd.grad(expected, logprob)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def test_nll_by_hand() -> None:
    loss, _ = nll(torch.tensor([-1.0, -2.0]), Totals(tokens=4, turns=1, samples=1))
    assert float(loss) == pytest.approx(3 / 4)


def test_kl_to_reference_by_hand_and_zero_at_equality() -> None:
    totals = Totals(tokens=2, turns=1, samples=1)
    assert float(kl_to_reference(_row(-1, -3), _row(-1, -3), totals)[0]) == 0.0
    loss, metrics = kl_to_reference(_row(-1.0, -3.0), _row(-1.0 + LOG2, -3.0 - LOG3), totals)
    assert float(loss) == pytest.approx(((2 - LOG2 - 1) + (1 / 3 + LOG3 - 1)) / 2)
    assert float(metrics["reference_kl"]) == float(loss)


def test_distillation_advantage_by_hand() -> None:
    got = distillation_advantage(_row(-1, -2, -9), _row(-3, -1, -1), weight=0.5, limit=5.0)
    assert got.tolist() == [[-1.0, 0.5, 2.5]]


def test_teacher_equal_to_student_teaches_nothing() -> None:
    assert not distillation_advantage(_row(-1, -2), _row(-1, -2), weight=1.0, limit=5.0).any()


def _pairs(*turns: int, mismatch: list[float]) -> Pairs:
    """Return the pairs of one sample with turns of these sizes."""
    numbers = [-1, *(number for number, size in enumerate(turns) for _ in range(size))]
    values = np.concatenate([[0.0], mismatch]).astype(np.float32)
    return Pairs.of([replace(_sample(torch.tensor(numbers)), mismatch_T=values)])


def test_gates_by_hand() -> None:
    pairs = _pairs(2, 1, mismatch=[math.log(k) for k in (0.4, 2, 6)])
    log_k = pairs.mismatch_M.double()
    assert gate_weights(log_k, pairs, gate="none") is None
    for unit, k in (("token", [0.4, 2, 6]), ("turn", [0.8**0.5, 0.8**0.5, 6]), ("sequence", [4.8 ** (1 / 3)] * 3)):
        tis, icepop = (gate_weights(log_k, pairs, gate=g, unit=unit, cap=3.0) for g in ("tis", "icepop"))  # type: ignore[arg-type]
        assert tis is not None
        assert icepop is not None
        expected = torch.tensor(k, dtype=F64)
        torch.testing.assert_close(tis, expected.clamp(max=3), rtol=1e-6, atol=0)
        kept = (expected >= 0.5) & (expected <= 5)
        torch.testing.assert_close(icepop, expected * kept, rtol=1e-6, atol=0)


def test_the_variance_of_ratios_is_told() -> None:
    _, metrics = _pg(RATIOS, ADVANTAGE, TURN, ratio="token")
    assert float(metrics["ratio_var"]) == pytest.approx((1 + 4 + 0.25) / 3)
    _, metrics = _pg(RATIOS, ADVANTAGE, TURN, ratio="turn")
    assert float(metrics["ratio_var"]) == pytest.approx((25 + 0.25) / 2)


def test_a_bad_ratio_is_bounded_where_the_advantage_is_negative() -> None:
    logprob = _row(0, math.log(5), 0, 200).requires_grad_()
    turn, advantage = torch.tensor([[-1, 0, -1, 1]]), _row(0, -2, 0, -1)
    for cap, expected in ((3.0, 3 * -2 + 3 * -1), (math.inf, 5 * -2 - math.exp(20))):
        loss, _ = _pg(logprob, advantage, turn, clip=Clip(low=0.2, high=0.28, cap=cap))
        (grad,) = torch.autograd.grad(loss, logprob)
        assert float(loss.detach()) == pytest.approx(-expected / 2)
        assert torch.isfinite(grad).all()
        assert (grad[0, 1] != 0) == (cap > 5)
