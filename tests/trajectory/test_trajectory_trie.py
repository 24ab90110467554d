"""The compressed tree against the plain set of prefixes, for any sequences of tokens."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.trajectory.trie import NONE, Trie, build

Row = list[int]
Forests = st.SearchStrategy[list[Row]]


def made(rows: list[Row], also: list[np.ndarray] | None = None) -> Trie:
    return build([np.array(row, np.int64) for row in rows], also=also)


def check(trie: Trie, rows: list[Row]) -> None:
    """Assert everything a trie says of `rows`, by way of their prefixes."""
    prefixes = {tuple(row[: t + 1]) for row in rows for t in range(len(row))}
    assert trie.num_flat == sum(map(len, rows))
    assert trie.num_unique == len(prefixes)
    meant: dict[int, tuple[int, ...]] = {}
    for b, row in enumerate(rows):
        index_T = trie.index_T[trie.offset_B[b] : trie.offset_B[b + 1]]
        assert len(index_T) == len(row)
        for t, unique in enumerate(index_T.tolist()):
            assert meant.setdefault(unique, tuple(row[: t + 1])) == tuple(row[: t + 1])
            assert trie.token_ids_N[unique] == row[t]
            assert trie.depth_N[unique] == t
    assert sorted(meant) == list(range(trie.num_unique))
    assert set(meant.values()) == prefixes

    runs = [range(s, s + n) for s, n in zip(trie.start_K.tolist(), trie.length_K.tolist(), strict=True)]
    assert all(runs)
    assert sorted(chain(*runs)) == list(range(trie.num_unique))
    through = [{b for b, row in enumerate(rows) if tuple(row[: len(meant[run[0]])]) == meant[run[0]]} for run in runs]
    for node, (run, parent) in enumerate(zip(runs, trie.parent_K.tolist(), strict=True)):
        assert parent < node
        assert meant[run[0]][:-1] == (meant[runs[parent][-1]] if parent != NONE else ())
        assert all(meant[a] == meant[b][:-1] for a, b in pairwise(run))
        assert trie.count_K[node] == len(through[node])
        whole = meant[run[0]]
        assert trie.size_K[node] == sum(prefix[: len(whole)] == whole for prefix in prefixes)
        assert trie.children_K[node] == [k for k, above in enumerate(trie.parent_K) if above == node]
        path = trie.path(node)
        assert tuple(trie.token_ids_N[n] for k in path for n in runs[k]) == meant[run[-1]]
    for row, leaf in zip(rows, trie.leaf_B.tolist(), strict=True):
        assert (meant[runs[leaf][-1]] if leaf != NONE else ()) == tuple(row)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_prefix_is_there_once(forests: Forests, data: st.DataObject) -> None:
    rows = data.draw(forests)
    trie = made(rows)
    check(trie, rows)
    for node, children in enumerate(trie.children_K):  # compressed: a node ends where a sequence ends or two part
        assert len(children) >= 2 or node in trie.leaf_B
    roots = [trie.token_ids_N[trie.start_K[k]] for k, parent in enumerate(trie.parent_K) if parent == NONE]
    assert len(roots) == len(set(roots))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 6))
def test_divided_is_the_same_tree_of_shorter_nodes(forests: Forests, data: st.DataObject, longest: int) -> None:
    rows = data.draw(forests)
    trie = made(rows)
    divided = trie.divided(longest)
    check(divided, rows)
    assert (divided.length_K <= longest).all()
    assert len(divided.length_K) == sum(-(-n // longest) for n in trie.length_K.tolist())
    with pytest.raises(ValueError, match="at least one"):
        trie.divided(0)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_what_must_be_equal_too_keeps_tokens_apart(forests: Forests, data: st.DataObject, width: int) -> None:
    """As if (token, extra) were one token."""
    rows = data.draw(forests)
    also = [
        np.array([[data.draw(st.sampled_from([0, 0, 0, 1]))] * width for _ in row], np.int64).reshape(-1, width)
        for row in rows
    ]
    trie = made(rows, also)
    names: dict[tuple[int, ...], int] = {}
    joint = [
        [names.setdefault((token, *extra), len(names)) for token, extra in zip(row, also_T, strict=True)]
        for row, also_T in zip(rows, (a.tolist() for a in also), strict=True)
    ]
    expected = made(joint)
    assert trie.num_unique == expected.num_unique
    pairs = set(zip(trie.index_T.tolist(), expected.index_T.tolist(), strict=True))
    assert len(pairs) == trie.num_unique  # one unique token for one, however they are numbered
    assert [trie.token_ids_N[n] for n in trie.index_T] == list(chain(*rows))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="1 rows for 2 tokens"):
        made([[1, 2]], [np.zeros((1, 2), int)])
    with pytest.raises(ValueError, match="width"):
        made([[1], [1]], [np.zeros((1, 2), int), np.zeros((1, 3), int)])


def test_by_hand() -> None:
    trie = made([[1, 2, 3], [1, 2], [1, 2, 4, 5], [], [7]])
    assert trie.length_K.tolist() == [2, 1, 1, 2]  # [1 2] and [7], then what hangs on [1 2]
    assert trie.parent_K.tolist() == [NONE, NONE, 0, 0]
    assert trie.count_K.tolist() == [3, 1, 1, 1]
    assert trie.size_K.tolist() == [5, 1, 1, 2]
    assert trie.leaf_B.tolist() == [2, 0, 3, NONE, 1]
    check(trie, [[1, 2, 3], [1, 2], [1, 2, 4, 5], [], [7]])


def test_thousands_of_leaves() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 50_000, 30)]
    for _ in range(5_000):
        row = rows[rng.integers(len(rows))]
        rows.append(np.concatenate([row[: rng.integers(len(row) + 1)], rng.integers(0, 50_000, rng.integers(0, 30))]))
    trie = build(rows)
    assert trie.num_unique == len({row[: t + 1].tobytes() for row in rows for t in range(len(row))})
    assert len(np.unique(trie.leaf_B)) > 3_000
    np.testing.assert_array_equal(trie.token_ids_N[trie.index_T], np.concatenate(rows))
    before_T = np.concatenate(
        [np.concatenate(([NONE], trie.index_T[a : b - 1])) if b > a else [] for a, b in _spans(trie)]
    )
    assert len(np.unique(np.stack([before_T, trie.index_T]), axis=1).T) == trie.num_unique  # one token before each


def _spans(trie: Trie) -> list[tuple[int, int]]:
    return list(zip(trie.offset_B[:-1].tolist(), trie.offset_B[1:].tolist(), strict=True))
