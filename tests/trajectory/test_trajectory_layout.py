"""Layouts against the dense matrix of who descends from whom: each pair in one block, and none too many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.trajectory.cut import cut
from palmette.trajectory.layout import BLOCK_PAIRS, Layout, lay_out
from palmette.trajectory.trie import NONE, build

Row = list[int]
Forests = st.SearchStrategy[list[Row]]


def laid(rows: Sequence[Row], budget: int | None = None, block_pairs: int = 0) -> Layout:
    trie, parts = build([np.array(row, np.int64) for row in rows]), None
    if budget:
        trie, parts = cut(trie, budget)
    return lay_out(trie, parts, block_pairs=block_pairs)


def prefixes(layout: Layout, rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """Return what each token of the layout stands for, by the index from sequences to tokens."""
    found: dict[int, tuple[int, ...]] = {}
    for b, row in enumerate(rows):
        for t, place in enumerate(layout.index(b).tolist()):
            assert found.setdefault(place, tuple(row[: t + 1])) == tuple(row[: t + 1])
    assert sorted(found) == list(range(len(layout.token_ids_N)))
    return [found[n] for n in range(len(found))]


def covered(layout: Layout) -> np.ndarray:
    """Return in how many blocks each pair lies (_N_N)."""
    count_NN = np.zeros((len(layout.token_ids_N),) * 2, int)
    for part in layout.parts:
        inside = slice(part.start, part.end)
        own_nn, end_n = count_NN[inside, inside], layout.end_N[inside]
        for start, end in part.squares:
            own_nn[start:end, start:end] += np.tri(end - start, dtype=int)
        for start, end in part.masked:
            place = np.arange(start, end)
            own_nn[start:end, start:end] += (place <= place[:, None]) & (place[:, None] < end_n[start:end])
        for row, row_end, column, column_end in part.rectangles:
            own_nn[row:row_end, column:column_end] += 1
        for row, row_end, other, column, column_end in part.gateways:
            first = layout.parts[other].start
            assert first + column_end <= layout.parts[other].end
            count_NN[inside][row:row_end, first + column : first + column_end] += 1
    return count_NN


def check(layout: Layout, rows: Sequence[Row]) -> None:
    meant = prefixes(layout, rows)
    sees_NN = np.array([[b == a[: len(b)] for b in meant] for a in meant], int).reshape(len(meant), len(meant))
    np.testing.assert_array_equal(covered(layout), sees_NN)
    assert layout.pairs == sees_NN.sum()
    assert layout.pairs_flat == sum(len(row) * (len(row) + 1) // 2 for row in rows)
    assert layout.num_flat == sum(map(len, rows))
    assert layout.overlap == pytest.approx(1 - len(meant) / layout.num_flat if layout.num_flat else 0)
    place = {prefix: n for n, prefix in enumerate(meant)}
    through = Counter(tuple(row[: t + 1]) for row in rows for t in range(len(row)))
    for n, prefix in enumerate(meant):
        assert layout.token_ids_N[n] == prefix[-1]
        assert layout.depth_N[n] == len(prefix) - 1
        assert layout.source_N[n] == place.get(prefix[:-1], NONE)
        assert layout.count_N[n] == through[prefix]
    assert [part.start for part in layout.parts] == [0, *(part.end for part in layout.parts)][: len(layout.parts)]
    for part in layout.parts:
        inside = slice(part.start, part.end)
        row = np.arange(part.num_tokens)[:, None]
        seen_nn = (row >= row.T) & (row < layout.end_N[inside])
        np.testing.assert_array_equal(seen_nn, sees_NN[inside, inside])  # row i sees column j iff j <= i < end_j
        squares = sorted([*part.squares, *part.masked])
        assert [start for start, _ in squares] == [0, *(end for _, end in squares)][
            : len(squares)
        ]  # each row in one square
        assert max((end for _, end in squares), default=0) == part.num_tokens


# Blocks that cost nothing, blocks that cost so much that all is fused, and what lies between.
block_pairs = st.sampled_from([0, 1, 3, 10, 40, 10**9])


@settings(max_examples=150, deadline=None)
@given(st.data(), block_pairs)
def test_blocks_of_a_whole_tree(forests: Forests, data: st.DataObject, block_pairs: int) -> None:
    rows = data.draw(forests)
    layout = laid(rows, block_pairs=block_pairs)
    check(layout, rows)
    assert len(layout.parts) == 1


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 20), block_pairs)
def test_blocks_and_gateways_of_a_cut_tree(
    forests: Forests, data: st.DataObject, budget: int, block_pairs: int
) -> None:
    rows = data.draw(forests)
    layout = laid(rows, budget, block_pairs)
    check(layout, rows)
    for number, part in enumerate(layout.parts):
        above = set()
        parent = part.parent
        while parent != NONE:
            assert parent < number
            above.add(parent)
            parent = layout.parts[parent].parent
        assert {gateway[2] for gateway in part.gateways} <= above
        assert part.num_tokens <= budget


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), block_pairs)
def test_blocks_and_gateways_of_any_connected_parts(
    forests: Forests, data: st.DataObject, longest: int, block_pairs: int
) -> None:
    """Also of parts with side branches that others hang on, which `cut` does not make."""
    rows = data.draw(forests)
    trie = build([np.array(row, np.int64) for row in rows]).divided(longest)
    parts: list[tuple[int, list[int]]] = []
    part_K: list[int] = []
    for node, above in enumerate(trie.parent_K.tolist()):
        parent = part_K[above] if above != NONE else NONE
        siblings = [number for number, (other, _) in enumerate(parts) if other == parent]
        part_K.append(data.draw(st.sampled_from([len(parts), *siblings, *[parent] * 2 * (parent != NONE)])))
        if part_K[-1] == len(parts):
            parts.append((parent, []))
        parts[part_K[-1]][1].append(node)
    check(lay_out(trie, parts, block_pairs=block_pairs), rows)


def test_by_hand() -> None:
    """A trunk of 4 with two continuations of 3 and 2, and one of 2 that hangs halfway."""
    rows = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 8, 9], [1, 2, 10, 11]]
    layout = laid(rows)
    (part,) = layout.parts
    assert layout.token_ids_N.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert part.squares == ((0, 7), (7, 9), (9, 11))
    assert part.masked == ()
    assert sorted(part.rectangles) == [(7, 9, 0, 4), (9, 11, 0, 2)]
    assert layout.end_N.tolist() == [11, 11, 9, 9, 7, 7, 7, 9, 9, 11, 11]
    assert layout.count_N.tolist() == [3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    fused = laid(rows, block_pairs=10**9)
    assert fused.parts[0].masked == ((0, 11),)
    assert fused.parts[0].squares == fused.parts[0].rectangles == ()
    star = laid(
        [[*range(100), 200 + leaf] for leaf in range(5)], block_pairs=100
    )  # the lighter leaves are put together
    assert star.parts[0].squares == ((0, 101),)
    assert star.parts[0].masked == ((101, 105),)
    assert star.parts[0].rectangles == ((101, 105, 0, 100),)


def test_few_rectangles_lie_above_any_token() -> None:
    """A path is left by a lighter child at most log2(N) times: also in a chain, and with thousands of branches."""
    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 99, 6_000)
    turns = [np.concatenate([trunk[: 20 * k], rng.integers(0, 99, 15)]) for k in range(300)]
    tree = [rng.integers(0, 99, 50)]
    for _ in range(2_000):
        row = tree[rng.integers(len(tree))]
        tree.append(np.concatenate([row[: rng.integers(len(row) + 1)], rng.integers(0, 99, rng.integers(1, 30))]))
    for rows in (turns, tree):
        for block_pairs in (0, BLOCK_PAIRS):
            layout = laid([row.tolist() for row in rows], block_pairs=block_pairs)
            (part,) = layout.parts
            above_N = np.zeros(part.num_tokens + 1, int)
            for row, row_end, _, _ in part.rectangles:
                above_N[row] += 1
                above_N[row_end] -= 1
            assert np.cumsum(above_N).max() <= math.log2(part.num_tokens)
            pairs = sum((b - a) * (b - a + 1) // 2 for a, b in part.squares)
            pairs += sum((b - a) * (d - c) for a, b, c, d in part.rectangles)
            assert pairs == layout.pairs or part.masked
            fused = len(part.squares) + len(part.masked) < 0.7 * len(rows)  # tiny siblings were put together
            assert fused == (rows is tree and block_pairs > 0)


def test_parts_that_do_not_hold_every_node_once_are_refused() -> None:
    trie = build([np.array([1, 2]), np.array([1, 3])])
    with pytest.raises(ValueError, match="two parts"):
        lay_out(trie, [(NONE, [0, 1, 2]), (0, [2])])
    with pytest.raises(ValueError, match="no part"):
        lay_out(trie, [(NONE, [0, 2])])
