"""Cut trees: every node in one part, every part within the budget, and what is alive at once a path."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.trajectory.cut import cut
from palmette.trajectory.trie import NONE, Trie, build

Forests = st.SearchStrategy[list[list[int]]]


def check(trie: Trie, budget: int) -> list[int]:
    """Assert what holds of any cut; return the tokens of its parts."""
    divided, parts = cut(trie, budget)
    np.testing.assert_array_equal(divided.token_ids_N[divided.index_T], trie.token_ids_N[trie.index_T])
    assert sorted(chain(*(nodes for _, nodes in parts))) == list(range(len(divided.length_K)))
    part_K = {node: number for number, (_, nodes) in enumerate(parts) for node in nodes}
    sizes = [int(divided.length_K[nodes].sum()) for _, nodes in parts]
    assert all(0 < size <= budget for size in sizes)
    above: list[set[int]] = []  # parts above each
    for number, (parent, nodes) in enumerate(parts):
        assert parent < number
        above.append({parent} | above[parent] if parent != NONE else set())
        for node in nodes:
            parent_node = int(divided.parent_K[node])
            assert parent_node == NONE or part_K[parent_node] in above[number] | {number}
            if parent_node != NONE and part_K[parent_node] != number:
                assert part_K[parent_node] == parent  # parts hang on the part right above them
    if len(parts) > 1:
        # Down the parts, only one left by a lighter subtree holds what is not on the path, and so may the last.
        longest = int(trie.depth_N.max()) + 1
        alive = max(size + sum(sizes[a] for a in above[number]) for number, size in enumerate(sizes))
        assert alive <= longest + budget * (1 + math.log2(trie.num_unique / budget))
    return sizes


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 30))
def test_every_node_lies_in_one_part_that_fits(forests: Forests, data: st.DataObject, budget: int) -> None:
    trie = build([np.array(row, np.int64) for row in data.draw(forests)])
    sizes = check(trie, budget)
    assert (len(sizes) == 1) == (0 < trie.num_unique <= budget)


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut(build([np.arange(3)]), 0)


def test_parts_of_large_trees_are_nearly_full() -> None:
    """Long chains, wide stars, and trees of thousands of branches: few parts more than there must be."""
    rng = np.random.default_rng(0)
    chain_ = [rng.integers(0, 99, 10_000)]
    trunk = rng.integers(0, 99, 300)
    star = [np.concatenate([trunk, rng.integers(0, 99, 200)]) for _ in range(64)]
    turns = [np.concatenate([chain_[0][: 40 * k], rng.integers(0, 99, 60)]) for k in range(100)]
    tree = [rng.integers(0, 99, 50)]
    for _ in range(3_000):
        row = tree[rng.integers(len(tree))]
        tree.append(np.concatenate([row[: rng.integers(len(row) + 1)], rng.integers(0, 99, rng.integers(1, 30))]))
    for rows in (chain_, star, turns, tree):
        trie = build(rows)
        for budget in (1_000, 4_000):
            sizes = check(trie, budget)
            assert len(sizes) <= 1.5 * trie.num_unique / budget + 2


def test_a_finished_part_frees_all_it_held() -> None:
    """Subtrees that fit are packed with siblings of the same part, never with strangers."""
    rng = np.random.default_rng(1)
    trunks = [rng.integers(0, 99, 80) for _ in range(3)]
    rows = [np.concatenate([trunk, rng.integers(0, 99, 30)]) for trunk in trunks for _ in range(4)]
    divided, parts = cut(build(rows), 100)
    for parent, nodes in parts:
        roots = {int(divided.path(node)[0]) for node in nodes}
        assert len(roots) == 1 or parent == NONE
