"""Rollouts as ATIF: what is written keeps the format's rules, and reading it gives the same tree and conversation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.errors import UserError
from palmette.rollout.atif import from_atif, to_atif
from palmette.rollout.outcomes import Outcome
from palmette.rollout.run import Rollout
from palmette.trajectory.tree import Tree

# Names that the models of harbor 0.25.0 allow; they forbid every other.
STEP = {
    "step_id", "timestamp", "source", "model_name", "reasoning_effort", "message", "reasoning_content", "tool_calls",
    "observation", "metrics", "is_copied_context", "llm_call_count", "extra",
}  # fmt: skip
AGENT_ONLY = {"model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics"}
METRICS = {
    "prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd", "prompt_token_ids", "completion_token_ids",
    "logprobs", "extra",
}  # fmt: skip
DOCUMENT = {
    "schema_version", "session_id", "trajectory_id", "agent", "steps", "notes", "final_metrics",
    "continued_trajectory_ref", "extra", "subagent_trajectories",
}  # fmt: skip


def check_atif(document: dict[str, Any]) -> None:
    """Fail unless a document keeps the rules of ATIF-v1.7."""
    assert document.keys() <= DOCUMENT
    assert document["schema_version"] == "ATIF-v1.7"
    assert {"name", "version"} <= document["agent"].keys() <= {"name", "version", "model_name", "extra"}
    assert [step["step_id"] for step in document["steps"]] == list(range(1, len(document["steps"]) + 1))
    assert document["steps"]
    for step in document["steps"]:
        assert {"step_id", "source", "message"} <= step.keys() <= STEP
        assert step["source"] in ("system", "user", "agent")
        assert step["source"] == "agent" or not AGENT_ONLY & step.keys()
        if step.get("llm_call_count") == 0:
            assert not {"metrics", "reasoning_content"} & step.keys()
        assert step.get("metrics", {}).keys() <= METRICS
        calls = step.get("tool_calls", [])
        assert all(one.keys() == {"tool_call_id", "function_name", "arguments"} for one in calls)
        ids = [one["tool_call_id"] for one in calls]
        assert len(set(ids)) == len(ids)
        for result in step.get("observation", {}).get("results", []):
            assert result.keys() <= {"source_call_id", "content", "extra"}
            assert result.get("source_call_id") is None or result["source_call_id"] in ids
    others = document.get("subagent_trajectories", [])
    names = [other["trajectory_id"] for other in others]
    assert len({*names, document["trajectory_id"]}) == len(others) + 1
    for other in others:
        check_atif(other)


def rollout_of(tree: Tree, said: list[dict[str, Any]], **more: Any) -> Rollout:
    turns = sum("leaf" in one for one in said)
    facts: dict[str, Any] = {
        "outcome": Outcome.OK,
        "reward": 0.5,
        "wall_s": 1.5,
        "detail": "d",
        "attempt": 2,
        "tier": 3,
    }
    return Rollout(
        task="org/task", domain="swe", group=4, sample=1, tree=tree, turns=turns, sampled_tokens=tree.num_sampled,
        conversation=said, **facts | more,
    )  # fmt: skip


def same_branches(one: Tree, other: Tree) -> bool:
    def told(tree: Tree) -> list[tuple[Any, ...]]:
        return [
            (b.token_ids.tolist(), b.sampled.tolist(), b.logprob.tolist(), b.version.tolist(), b.turns)
            for b in tree.branches()
        ]

    return told(one) == told(other)


ROLES = st.sampled_from(["system", "user", "tool", "assistant"])
WORDS = st.sampled_from(["", "a", "ü\n", '"{}"'])
VALUES = st.sampled_from([None, True, -3, 1.5, "x", ["y", {"z": []}]])
CALLS = st.lists(
    st.fixed_dictionaries({"name": WORDS, "arguments": st.dictionaries(WORDS, VALUES, max_size=2)}), max_size=2
)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    """A conversation that grows and forks anywhere, over a tree of tokens that does the same."""
    tree, said = Tree(), []
    ends: list[tuple[int | None, list[int]]] = [(None, [])]  # a message, and the tokens up to it
    for turn in range(draw(st.integers(1, 6))):
        parent, ids = draw(st.sampled_from(ends))
        for role in draw(st.lists(ROLES, max_size=3)):
            one: dict[str, Any] = {"role": role, "content": draw(WORDS), "turn": turn, "parent": parent}
            if role == "assistant" and (calls := draw(CALLS)):
                one["tool_calls"] = calls
            said.append(one)
            parent = len(said) - 1
            ids = [*ids, *draw(st.lists(st.integers(0, 3), max_size=3))]
        ids = ids or [draw(st.integers(0, 3))]
        sampled = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
        logprobs = draw(st.lists(st.floats(-9, 0, width=32), min_size=len(sampled), max_size=len(sampled)))
        leaf = tree.commit(ids, sampled, logprobs, draw(st.integers(0, 2)))
        counts = {"prompt_tokens": len(ids), "completion_tokens": len(sampled)}
        answer = {"role": "assistant", "content": draw(WORDS), "turn": turn, "parent": parent, "leaf": leaf, **counts}
        if calls := draw(CALLS):
            answer["tool_calls"] = calls
        if reasoning := draw(WORDS):
            answer["reasoning"] = reasoning
        said.append(answer)
        ends.append((len(said) - 1, [*ids, *sampled]))
    return rollout_of(tree, said)


@settings(max_examples=40, deadline=None)
@given(rollouts())
def test_a_round_trip_keeps_tree_conversation_and_facts(rollout: Rollout) -> None:
    document = json.loads(json.dumps(to_atif(rollout, model="m", scaffold="loop")))
    check_atif(document)
    back, exact = from_atif(document)
    assert exact
    assert same_branches(back.tree, rollout.tree)

    def plain(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in one.items() if name != "leaf"} for one in said]

    assert plain(back.conversation) == plain(rollout.conversation)
    for one, other in zip(back.conversation, rollout.conversation, strict=True):
        if "leaf" in other:
            ids = back.tree.branch(one["leaf"]).token_ids
            assert np.array_equal(ids, rollout.tree.branch(other["leaf"]).token_ids)
    facts = ("task", "domain", "group", "sample", "outcome", "reward", "wall_s", "detail", "attempt", "tier", "turns")
    assert [getattr(back, name) for name in facts] == [getattr(rollout, name) for name in facts]


@settings(max_examples=20, deadline=None)
@given(rollouts())
def test_each_sampled_token_stands_in_one_document_to_train_on(rollout: Rollout) -> None:
    document = to_atif(rollout)
    steps = [s for d in (document, *document.get("subagent_trajectories", [])) for s in d["steps"]]
    ids = [s["metrics"]["completion_token_ids"] for s in steps if "completion_token_ids" in s.get("metrics", {})]
    assert sum(map(len, ids)) == rollout.tree.num_sampled
    assert all(s.get("is_copied_context") or "metrics" not in s or s["metrics"]["completion_token_ids"] for s in steps)


def _foreign(**step: Any) -> dict[str, Any]:
    agent = {"source": "agent", "message": "hm", "step_id": 2, "metrics": {"prompt_tokens": 3}}
    user = {"source": "user", "message": [{"type": "text", "text": "do"}, {"type": "image"}], "step_id": 1}
    return {"schema_version": "ATIF-v1.4", "session_id": "s", "agent": {}, "steps": [user, agent | step]}


def test_a_foreign_document_without_tokens_is_text_only() -> None:
    calls = [{"tool_call_id": "c", "function_name": "bash", "arguments": {"command": "ls"}}]
    results = {"results": [{"source_call_id": "c", "content": "a b"}]}
    rollout, exact = from_atif(_foreign(tool_calls=calls, observation=results), source="x.json")
    assert (exact, rollout.tree.num_tokens, rollout.reward) == (False, 0, None)
    assert not rollout.outcome.startswith("ok")
    assert rollout.conversation == [
        {"role": "user", "content": "do\n[image]", "parent": None},
        {
            "role": "assistant", "content": "hm", "parent": 0, "leaf": None, "prompt_tokens": 3,
            "tool_calls": [{"name": "bash", "arguments": {"command": "ls"}}],
        },
        {"role": "tool", "content": "a b", "parent": 1},
    ]  # fmt: skip
    again = to_atif(rollout, exact=False)
    check_atif(again)
    assert from_atif(again)[1] is False


def test_a_foreign_document_with_tokens_is_exact_and_with_half_of_them_not() -> None:
    tokens = {"prompt_token_ids": [1, 2], "completion_token_ids": [3, 4], "logprobs": [-0.5, -1.0]}
    rollout, exact = from_atif(_foreign(metrics=tokens))
    assert exact
    [branch] = rollout.tree.branches()
    assert (branch.token_ids.tolist(), branch.sampled.tolist()) == ([1, 2, 3, 4], [False, False, True, True])
    for missing in tokens:
        rollout, exact = from_atif(_foreign(metrics={k: v for k, v in tokens.items() if k != missing}))
        assert (exact, rollout.tree.num_tokens) == (False, 0)
    copied, exact = from_atif(_foreign(metrics=tokens, is_copied_context=True))
    assert (exact, copied.tree.num_tokens) == (False, 0)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "schema_version is ''"),
        ({"schema_version": "ATIF-v2.0"}, "not ATIF-v1.x"),
        ({"schema_version": "ATIF-v1.7"}, "'steps'"),
        ({"schema_version": "ATIF-v1.7", "steps": [{"source": "robot", "message": "x"}]}, "'robot'"),
        ({"schema_version": "ATIF-v1.7", "steps": 3}, "TypeError"),
        (_foreign(metrics={"prompt_token_ids": [-1], "completion_token_ids": [1], "logprobs": [0.0]}), "negative id"),
    ],
)
def test_what_is_no_atif_is_named(document: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_atif(document, source="some.json")
