"""Forward passes of samples: nothing lost, nothing doubled, the budget kept, each shared edge once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from palmette.train import pack
from palmette.train.pack import batches, block_pairs
from palmette.train.samples import Sample, from_demonstration


def _plain(length: int) -> Sample:
    return from_demonstration(list(range(1, length + 1)), [False] + [True] * (length - 1))


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(1, 200))
def test_batches_partition_and_respect_the_budget(lengths: list[int], budget: int) -> None:
    samples = [_plain(n) for n in lengths]
    split = batches(samples, budget)
    assert sorted(i for part in split for i in part) == list(range(len(samples)))
    for part in split:
        padded = len(part) * max(lengths[i] for i in part)
        assert padded <= budget or len(part) == 1


def test_flat_pads_on_the_right_with_nothing() -> None:
    short, long = (
        from_demonstration([3, 4], [False, True]),
        from_demonstration([5, 6, 7, 8], [False, True, False, True]),
    )
    (only,) = pack.flat([long, short], 8).passes
    assert only.token_ids_BN.tolist() == [[3, 4, 0, 0], [5, 6, 7, 8]]
    assert only.count_BN.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert only.source_E.tolist() == [0, 4, 6]
    assert only.target_E.tolist() == [4, 6, 8]
    assert only.pair_M.tolist() == [2, 0, 1]  # the short sample was given second
    assert only.edge_M.tolist() == [0, 1, 2]


def test_no_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pack.flat([_plain(3)], 0)
    with pytest.raises(ValueError, match="at least 1"):
        pack.tree([_plain(3)], 0)


# Few tokens and short runs, so that samples share much.
samples_of_trees = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=12).map(
        lambda row: from_demonstration([t for t, _ in row], [s and i > 0 for i, (_, s) in enumerate(row)])
    ),
    max_size=8,
)


@given(samples_of_trees, st.integers(1, 30), st.booleans())
def test_every_pair_is_served_once_through_the_edge_it_means(samples: list[Sample], budget: int, tree: bool) -> None:
    plan = (pack.tree if tree else pack.flat)(samples, budget)
    pairs = [
        (tuple(sample.token_ids_T[:t].tolist()), int(sample.token_ids_T[t]))
        for sample in samples
        for t in np.flatnonzero(sample.sampled_T)
    ]
    assert len(plan.pairs) == len(pairs)
    assert sorted(m for asked in plan.passes for m in asked.pair_M.tolist()) == list(range(len(pairs)))
    edges: list[tuple[tuple[int, ...], int]] = []
    for asked in plan.passes:
        before = _contexts(plan, asked)
        said = [(before[s], t) for s, t in zip(asked.source_E.tolist(), asked.target_E.tolist(), strict=True)]
        for m, e in zip(asked.pair_M.tolist(), asked.edge_M.tolist(), strict=True):
            assert said[e] == pairs[m]
        assert set(asked.edge_M.tolist()) == set(range(len(said)))  # no edge that nobody asked about
        edges += said
    assert len(edges) == (len(set(pairs)) if tree else len(pairs))
    assert all(asked.parent < number for number, asked in enumerate(plan.passes))


def _contexts(plan: pack.Plan, asked: pack.Pass) -> list[tuple[int, ...]]:
    """Return for every place of a pass the tokens from the beginning of its sequence up to it."""
    if asked.part is None:
        rows = asked.token_ids_BN.tolist()
        return [tuple(row[: n + 1]) for row in rows for n in range(len(row))]
    layout = plan.layout
    assert layout is not None
    found = []
    for place in range(asked.part.start, asked.part.end):
        path = []
        while place >= 0:
            path.append(int(layout.token_ids_N[place]))
            place = int(layout.source_N[place])
        found.append(tuple(path[::-1]))
    return found


def test_narrow_models_fuse_more() -> None:
    shapes = [(4, 32), (6, 64), (16, 64)]
    configs = [LlamaConfig(hidden_size=96, num_attention_heads=heads, head_dim=size) for heads, size in shapes]
    worth = [block_pairs(config) for config in configs]
    assert worth == [7812, 2604, 976]
    assert block_pairs(LlamaConfig(hidden_size=64, num_attention_heads=4)) == 1_000_000 // 64
