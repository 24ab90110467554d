"""Samples: their turns, their totals, and arrays that must agree."""

from __future__ import annotations

import numpy as np
import pytest

from palmette.train.samples import Sample, Totals, from_demonstration


def test_demonstration_turns_are_the_runs_of_sampled_tokens() -> None:
    sample = from_demonstration([5, 6, 7, 8, 9, 4], [False, True, True, False, False, True])
    assert sample.turns == ((1, 3), (5, 6))
    assert sample.num_sampled == 3
    assert Totals.of([sample, sample]) == Totals(tokens=6, turns=4, samples=2)


def test_arrays_must_agree() -> None:
    with pytest.raises(ValueError, match="entries"):
        Sample(
            token_ids_T=np.arange(3),
            sampled_T=np.array([False, True, True]),
            turns=((1, 3),),
            advantage_T=np.zeros(2, np.float32),
        )
    with pytest.raises(ValueError, match="cover"):
        Sample(token_ids_T=np.arange(3), sampled_T=np.array([False, True, True]), turns=((1, 2),))
    with pytest.raises(ValueError, match="first token"):
        from_demonstration([1, 2], [True, True])
