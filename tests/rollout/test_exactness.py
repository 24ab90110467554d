"""The comparison of a tree with what an engine was given and said: it must notice every way of being wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from palmette.engine.api import Completion, FinishReason
from palmette.rollout.exactness import compare
from palmette.trajectory.tree import Tree

Call = tuple[tuple[int, ...], Completion]
tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6)


def call(prompt: list[int], said: list[int]) -> Call:
    logprobs = tuple(-(1 + token) / 4 for token in said)
    completion = Completion(token_ids=tuple(said), logprobs=logprobs, finish_reason=FinishReason.STOP, version=0)
    return tuple(prompt), completion


def grown(calls: list[Call]) -> Tree:
    tree = Tree()
    for prompt, completion in calls:
        tree.commit(prompt, completion.token_ids, completion.logprobs, completion.version)
    return tree


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5))
def test_a_tree_of_all_calls_is_exact_and_any_wrong_call_shows(said: list[tuple[list[int], list[int]]]) -> None:
    calls = [call(prompt, completion) for prompt, completion in said]
    tree = grown(calls)
    seen = compare(tree, calls, len(calls))
    assert (seen.exact, seen.found, seen.foreign, seen.unanswered) == (True, len(calls), 0, 0)
    assert seen.tokens == sum(len(prompt) + len(completion) for prompt, completion in said)
    prompt, completion = said[0]
    other_token = call([*prompt[:-1], prompt[-1] + 9], completion)
    assert not compare(tree, [other_token, *calls[1:]], len(calls)).exact
    other_answer = call(prompt, [*completion, 9])
    assert not compare(tree, [other_answer, *calls[1:]], len(calls)).exact


def test_a_wrong_log_prob_and_a_given_turn_are_noticed() -> None:
    prompt, completion = call([1, 2], [3, 4])
    tree = Tree()
    tree.commit(prompt, completion.token_ids, (-0.5, -0.5), 0)
    assert not compare(tree, [(prompt, completion)], 1).exact
    retold = Tree()
    retold.commit((*prompt, *completion.token_ids), (5,), (-0.5,), 0)
    assert not compare(retold, [(prompt, completion), call([1, 2, 3, 4], [5])], 2).exact


def test_an_answer_that_came_too_late_is_no_fault_but_a_lost_turn_is() -> None:
    calls = [call([1], [2]), call([1, 2, 3], [1])]
    first = grown(calls[:1])
    late = compare(first, calls, turns=1)
    assert (late.exact, late.found, late.unanswered) == (True, 1, 1)
    assert not compare(first, calls, turns=2).exact
    assert not compare(grown([*calls, call([7], [7])]), calls, turns=2).exact
