"""Each sampled token is owned once, however a rollout was cut into branches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.trajectory.convert import to_branches
from palmette.trajectory.tree import Tree

ids = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ids, ids), max_size=10))
def test_owned_tokens_are_the_sampled_tokens_of_the_tree(calls):
    tree = Tree()
    for number, (prompt, completion) in enumerate(calls):
        leaf = tree.commit(prompt, completion, [-1.0] * len(completion), 0)
        tree.write("serial", leaf, 100 * number + np.arange(len(completion)))
    once, each = to_branches(tree), to_branches(tree, shared="each")
    serials = [s for owned in once for s in owned.branch.array("serial")[owned.own].tolist()]
    assert sorted(serials) == sorted(100 * n + i for n, (_, c) in enumerate(calls) for i in range(len(c)))
    for owned in once:
        assert not (owned.own & ~owned.branch.sampled).any()
    for owned in each:
        np.testing.assert_array_equal(owned.own, owned.branch.sampled)
    for owned in (once, each) if calls else ():
        assert sum(o.weight for o in owned) == pytest.approx(1)


def test_the_first_branch_owns_what_is_shared():
    tree = Tree()
    tree.commit([1], [2, 3], [-1, -1], 0)
    tree.commit([1, 2, 3, 4], [5], [-1], 0)
    tree.commit([1, 2, 3, 6], [7, 8], [-1, -1], 0)
    first, second = to_branches(tree)
    assert first.own.tolist() == [False, True, True, False, True]
    assert second.own.tolist() == [False, False, False, False, True, True]
    assert (first.weight, second.weight) == (3 / 5, 2 / 5)
