"""The radix tree against a token-by-token trie that does the same without any cleverness."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.trajectory.tree import Tree


@dataclass
class Letter:
    """One token of the oracle: a trie node of exactly one token."""

    token: int
    turn: int
    logprob: float
    version: int
    children: list[Letter] = field(default_factory=list)


class Oracle:
    """A list of letters a path; prefix search by plain recursion over every child."""

    def __init__(self) -> None:
        self.root = Letter(-1, -1, 0, -1)
        self.turns = 0

    def longest(self, letter: Letter, ids: list[int]) -> list[Letter]:
        best: list[Letter] = []
        for child in letter.children if ids else []:
            if child.token == ids[0]:
                path = [child, *self.longest(child, ids[1:])]
                best = path if len(path) >= len(best) else best
        return best

    def commit(self, prompt: list[int], ids: list[int], logprobs: list[float], version: int) -> list[Letter]:
        path = self.longest(self.root, prompt)
        for token in prompt[len(path) :]:
            self._grow(path, Letter(token, -1, 0, -1))
        for token, logprob in zip(ids, logprobs, strict=True):
            self._grow(path, Letter(token, self.turns, logprob, version))
        self.turns += bool(ids)
        return path

    def _grow(self, path: list[Letter], letter: Letter) -> None:
        (path[-1] if path else self.root).children.append(letter)
        path.append(letter)

    def letters(self) -> list[Letter]:
        found, stack = [], [self.root]
        while stack:
            found.append(stack.pop())
            stack.extend(found[-1].children)
        return found[1:]


ids = st.lists(st.integers(0, 2), max_size=6)
calls = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), ids, ids, st.integers(0, 3)), max_size=14)


def play(calls: list) -> tuple[Tree, Oracle, list[tuple[int, list[Letter]]], list[list[int]]]:
    """Commit prompts that often continue, repeat or cut what an earlier commit left."""
    tree, oracle, ends, history = Tree(), Oracle(), [], []
    for pick, cut, rest, completion, version in calls:
        earlier = history[pick % len(history)] if history else []
        prompt = (earlier[: max(0, len(earlier) - cut % 5)] if cut < 9 else []) + rest
        if not prompt:
            continue
        logprobs = [-float(np.float32(0.1 * (len(history) + 1) + n)) for n in range(len(completion))]
        leaf = tree.commit(prompt, completion, logprobs, version)
        ends.append((leaf, oracle.commit(prompt, completion, logprobs, version)))
        history.append(prompt + completion)
    return tree, oracle, ends, history


@settings(max_examples=400, deadline=None)
@given(calls)
def test_every_commit_reads_back_as_the_oracle_has_it(calls):
    tree, oracle, ends, history = play(calls)
    for (leaf, path), seen in zip(ends, history, strict=True):
        branch = tree.branch(leaf)
        assert branch.token_ids.tolist() == seen == [x.token for x in path]
        assert branch.sampled.tolist() == [x.turn >= 0 for x in path]
        assert branch.version.tolist() == [x.version for x in path]
        np.testing.assert_array_equal(branch.logprob, np.array([x.logprob for x in path], np.float32))
        owners = [x.turn for x in path]
        expected = {t: (owners.index(t), len(owners) - owners[::-1].index(t)) for t in owners if t >= 0}
        assert branch.turns == tuple(expected.values())
    letters = oracle.letters()
    assert tree.num_tokens == len(letters)
    assert tree.num_sampled == sum(x.turn >= 0 for x in letters)
    assert tree.num_turns == oracle.turns
    leaves = [path for _, path in ends if path and not path[-1].children]
    assert {tuple(map(id, p)) for p in leaves} == {tuple(map(id, p)) for p in _paths(oracle.root)}
    assert len(tree.branches()) == len({id(p[-1]) for p in leaves})
    order = tree.nodes()
    assert sorted(order) == list(range(1, len(order) + 1))
    assert all(tree.node(n).parent == 0 or order.index(tree.node(n).parent) < i for i, n in enumerate(order))


def _paths(letter: Letter, above: tuple[Letter, ...] = ()) -> list[tuple[Letter, ...]]:
    here = (*above, letter) if letter.token >= 0 else above
    return [p for c in letter.children for p in _paths(c, here)] if letter.children else [here] * bool(here)


@settings(max_examples=200, deadline=None)
@given(calls, st.data())
def test_named_arrays_follow_their_tokens_through_later_splits(calls, data):
    tree, _, ends, _ = play(calls[: len(calls) // 2])
    known: dict[int, np.ndarray] = {}  # leaf -> what a reader must find, last writing wins through shared nodes
    values: dict[tuple[int, ...], np.ndarray] = {}
    for leaf, path in ends:
        size = data.draw(st.integers(0, len(path)))
        row = np.arange(2 * size, dtype=np.int16).reshape(size, 2) + 100 * len(values)
        tree.write("route", leaf, row)
        for letter, value in zip(path[len(path) - size :], row, strict=True):
            values[(id(letter),)] = value
    for leaf, path in ends:
        known[leaf] = np.array([values.get((id(x),), np.array([-7, -7])) for x in path]).reshape(-1, 2)
    for number, call in enumerate(calls[len(calls) // 2 :]):  # forks split the nodes that hold the arrays
        prompt = [*(tree.branch(ends[0][0]).token_ids.tolist() if ends else []), 1][: 1 + call[0]]
        tree.commit(prompt, [2] * (1 + number), [0.0] * (1 + number), 0)
    for leaf, expected in known.items():
        if "route" in tree.names:
            found = tree.branch(leaf).array("route", fill=-7)
            assert found.dtype == np.int16
            np.testing.assert_array_equal(found, expected)


def test_a_chain_of_turns_is_one_branch():
    tree = Tree()
    tree.commit([1, 2], [3, 4], [-1, -2], 5)
    leaf = tree.commit([1, 2, 3, 4, 9], [6], [-3], 6)
    (branch,) = tree.branches()
    assert branch.leaf == leaf
    assert branch.token_ids.tolist() == [1, 2, 3, 4, 9, 6]
    assert branch.sampled.tolist() == [False, False, True, True, False, True]
    assert branch.logprob.tolist() == [0, 0, -1, -2, 0, -3]
    assert branch.version.tolist() == [-1, -1, 5, 5, -1, 6]
    assert branch.turns == ((2, 4), (5, 6))
    assert (tree.num_tokens, tree.num_sampled) == (6, 3)


def test_equal_completions_stay_two_turns_and_the_later_one_goes_on():
    tree = Tree()
    first = tree.commit([1], [2, 3], [-1, -1], 0)
    second = tree.commit([1], [2, 3], [-2, -2], 1)
    assert first != second
    last = tree.commit([1, 2, 3, 7], [8], [-3], 1)
    assert [b.leaf for b in tree.branches()] == [first, last]
    assert tree.branch(last).logprob.tolist() == [0, -2, -2, 0, -3]
    assert tree.num_sampled == 5


def test_a_given_token_is_never_upgraded_and_a_sampled_one_stays():
    tree = Tree()
    tree.commit([1, 2, 3], [4], [-1], 0)
    again = tree.commit([1], [2, 3], [-1, -1], 0)
    assert tree.branch(again).sampled.tolist() == [False, True, True]
    assert tree.branches()[0].sampled.tolist() == [False, False, False, True]
    on = tree.commit([1, 2, 3, 5], [6], [-1], 0)
    assert tree.branch(on).turns == ((1, 3), (4, 5))


def test_a_prompt_that_cuts_a_turn_keeps_the_shared_part_sampled():
    tree = Tree()
    whole = tree.commit([1], [2, 3, 4], [-1, -2, -3], 0)
    edited = tree.commit([1, 2, 3, 9], [5], [-4], 0)
    assert tree.branch(whole).turns == ((1, 4),)
    assert tree.branch(edited).turns == ((1, 3), (4, 5))
    assert tree.branch(edited).logprob.tolist() == [0, -1, -2, 0, -4]
    assert tree.num_tokens == 6


def test_continuing_a_completion_at_once_makes_two_turns():
    tree = Tree()
    tree.commit([1], [2], [-1], 0)
    leaf = tree.commit([1, 2], [3], [-1], 0)
    assert tree.branch(leaf).turns == ((1, 2), (2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [2], [], 0), "logprobs has 0"),
        (([], [2], [-1], 0), "prompt_ids is empty"),
        (([1], [-2], [-1], 0), "negative id -2"),
        (([1], [2], [float("nan")], 0), "not finite"),
        (([1], [2], [-1], -1), "version is -1"),
        (([1.5], [2], [-1], 0), "prompt_ids must be"),
        (([1], [2**31], [-1], 0), "token_ids must be"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(arguments, message):
    tree = Tree()
    tree.commit([1, 5], [6], [-1], 0)
    with pytest.raises(ValueError, match=message):
        tree.commit(*arguments)
    assert (tree.num_tokens, tree.num_turns, len(tree.nodes())) == (3, 1, 2)


def test_bad_arrays_are_refused():
    tree = Tree()
    leaf = tree.commit([1, 5], [6], [-1], 0)
    tree.write("advantage", leaf, np.float32([1]))
    for name, values, message in [
        ("advantage", [1.0], "holds"),
        ("logprob", [1.0], "is not a name"),
        ("x", [1.0] * 4, "4 rows for a path of 3"),
        ("x", 1.0, "one bool"),
        ("x", ["a"], "one bool"),
    ]:
        with pytest.raises(ValueError, match=message):
            tree.write(name, leaf, values)
    with pytest.raises(KeyError, match="'x'"):
        tree.branch(leaf).array("x")
    assert tree.names == ("advantage",)
    assert tree.branch(leaf).array("advantage").tolist() == [0, 0, 1]


def test_writing_node_by_node_covers_every_token_once():
    tree, _, _, _ = play([(0, 9, [0, 1, 2], [1, 1], 0), (0, 1, [2], [0], 0), (1, 2, [], [1], 1)])
    for node in tree.nodes():
        tree.write("advantage", node, np.where(tree.sampled(node), np.float32(2), np.float32(-1)))
    for branch in tree.branches():
        np.testing.assert_array_equal(branch.array("advantage"), np.where(branch.sampled, 2, -1))


def test_thirty_two_thousand_tokens_in_sixteen_turns_take_milliseconds():
    rng = np.random.default_rng(0)
    tree, seen, best = Tree(), [], float("inf")
    for _ in range(3):
        started, tree, seen = time.perf_counter(), Tree(), []
        for _ in range(16):
            seen = seen + rng.integers(0, 30_000, 1_000).tolist()
            completion = rng.integers(0, 30_000, 1_000).tolist()
            tree.commit(seen, completion, [-1.0] * 1_000, 0)
            seen = seen + completion
        (branch,) = tree.branches()
        best = min(best, time.perf_counter() - started)
    assert branch.token_ids.tolist() == seen
    assert best < 0.5  # about 15 ms on an idle core
