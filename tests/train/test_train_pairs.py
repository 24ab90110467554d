"""Pairs (branch, token): in order, with the sizes of whole turns and samples, whichever of them are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.train.pairs import Pairs
from palmette.train.samples import Sample

Make = Callable[..., Any]


def test_by_hand() -> None:
    first = Sample(
        token_ids_T=np.array([7, 8, 9, 7, 8]),
        sampled_T=np.array([False, True, True, False, True]),
        turns=((1, 3), (4, 5)),
        logprob_T=np.array([0, -1, -2, 0, -3], np.float32),
        old_logprob_T=np.array([0, -4, -5, 0, -6], np.float32),
        advantage_T=np.array([0, 1, 2, 0, 3], np.float32),
        teacher_logprob_T=np.array([0, -7, -8, 0, -9], np.float32),
    )
    nothing = Sample(token_ids_T=np.arange(3), sampled_T=np.zeros(3, bool), turns=())
    # Two turns that touch: not one run of sampled tokens.
    last = Sample(
        token_ids_T=np.arange(4),
        sampled_T=np.array([False, True, True, True]),
        turns=((1, 2), (2, 4)),
        reference_logprob_T=np.array([0, -1, -2, -3], np.float32),
    )
    pairs = Pairs.of([first, nothing, last])
    assert len(pairs) == 6
    assert pairs.sample_M.tolist() == [0, 0, 0, 2, 2, 2]
    assert pairs.turn_M.tolist() == [0, 0, 1, 2, 3, 3]
    assert pairs.sample_size_M.tolist() == [3] * 6
    assert pairs.turn_size_M.tolist() == [2, 2, 1, 1, 2, 2]
    assert pairs.sample_turns_M.tolist() == [2] * 6
    assert pairs.logprob_M.tolist() == [-1, -2, -3, 0, 0, 0]
    assert pairs.old_logprob_M.tolist() == [-4, -5, -6, 0, 0, 0]
    assert pairs.advantage_M.tolist() == [1, 2, 3, 0, 0, 0]
    assert pairs.teacher_logprob_M.tolist() == [-7, -8, -9, 0, 0, 0]
    assert pairs.reference_logprob_M.tolist() == [0, 0, 0, -1, -2, -3]
    assert len(Pairs.of([])) == len(Pairs.of([nothing])) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(4, 20), max_size=5), st.data())
def test_sizes_stay_those_of_the_whole_in_any_part(
    random_sample: Make, seed: int, lengths: list[int], data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    samples = [random_sample(rng, length) for length in lengths]
    pairs = Pairs.of(samples)
    assert len(pairs) == sum(sample.num_sampled for sample in samples)
    turn = 0
    for number, sample in enumerate(samples):
        mine = pairs.take(torch.nonzero(pairs.sample_M == number)[:, 0])
        assert set(mine.sample_size_M.tolist()) == {sample.num_sampled}
        assert set(mine.sample_turns_M.tolist()) == {len(sample.turns)}
        at = 0
        for start, end in sample.turns:
            assert mine.turn_M[at : at + end - start].tolist() == [turn] * (end - start)
            assert mine.turn_size_M[at : at + end - start].tolist() == [end - start] * (end - start)
            np.testing.assert_array_equal(mine.advantage_M[at : at + end - start], sample.advantage_T[start:end])
            at, turn = at + end - start, turn + 1
        assert at == len(mine)
    chosen = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=9) if len(pairs) else st.just([]))
    some = pairs.take(torch.tensor(chosen, dtype=torch.int64))
    for field in fields(pairs):
        whole = getattr(pairs, field.name).tolist()
        assert getattr(some, field.name).tolist() == [whole[m] for m in chosen]
