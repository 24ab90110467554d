"""Samples and batches: nothing lost, nothing doubled, the budget kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.train.samples import Sample, Totals, batches, collate, from_demonstration


def _plain(length: int) -> Sample:
    return from_demonstration(list(range(1, length + 1)), [False] + [True] * (length - 1))


def test_demonstration_turns_are_the_runs_of_sampled_tokens() -> None:
    sample = from_demonstration([5, 6, 7, 8, 9, 4], [False, True, True, False, False, True])
    assert sample.turns == ((1, 3), (5, 6))
    assert sample.num_sampled == 3
    assert Totals.of([sample, sample]) == Totals(tokens=6, turns=4, samples=2)


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(1, 200))
def test_batches_partition_and_respect_the_budget(lengths: list[int], budget: int) -> None:
    samples = [_plain(n) for n in lengths]
    split = batches(samples, budget)
    assert sorted(i for part in split for i in part) == list(range(len(samples)))
    for part in split:
        padded = len(part) * max(lengths[i] for i in part)
        assert padded <= budget or len(part) == 1


def test_collate_pads_on_the_right_with_nothing() -> None:
    short, long = (
        from_demonstration([3, 4], [False, True]),
        from_demonstration([5, 6, 7, 8], [False, True, False, True]),
    )
    batch = collate([short, long])
    assert batch.token_ids_BT.tolist() == [[3, 4, 0, 0], [5, 6, 7, 8]]
    assert batch.sampled_BT.tolist() == [[False, True, False, False], [False, True, False, True]]
    assert batch.turn_BT.tolist() == [[-1, 0, -1, -1], [-1, 0, -1, 1]]


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
