"""What is stored of a rollout is all of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from palmette.rollout.outcomes import Outcome
from palmette.rollout.record import load_rollouts, save_rollouts, to_metadata
from palmette.rollout.run import Rollout
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree


def rollout(number: int, outcome: Outcome, reward: float | None) -> Rollout:
    tree = Tree()
    leaf = tree.commit([1, 2, 3], [4, 5 + number], [-0.25, -1.5], 3)
    tree.write("advantage", leaf, np.float32([0.5, -0.5]))
    return Rollout(
        task=f"t/{number}",
        domain="swe",
        tier=2,
        group=number,
        sample=1,
        outcome=outcome,
        reward=reward,
        tree=tree,
        turns=1,
        sampled_tokens=2,
        wall_s=0.5,
        conversation=[{"role": "user", "content": "do ✓"}],
        detail="why",
        attempt=2,
    )


def test_rollouts_come_back_from_a_store_as_they_were(tmp_path: Path):
    store = TreeStore(tmp_path / "trees")
    first = [rollout(0, Outcome.OK, 1.0), rollout(1, Outcome.VERIFIER_ERROR, None)]
    save_rollouts(store, first, stage="rl/swe", step=3)
    save_rollouts(store, [rollout(2, Outcome.GAVE_UP, 0.0)], stage="distil", step=0)

    read = list(load_rollouts(TreeStore(tmp_path / "trees"), stage="rl/swe"))

    assert [metadata["step"] for _, metadata in read] == [3, 3]
    for before, (after, _) in zip(first, read, strict=True):
        for field in fields(Rollout):
            if field.name != "tree":
                assert getattr(after, field.name) == getattr(before, field.name)
        assert isinstance(after.outcome, Outcome)
        assert after.tree.branches()[0].token_ids.tolist() == before.tree.branches()[0].token_ids.tolist()
        assert after.tree.branches()[0].array("advantage").tolist() == [0, 0, 0, 0.5, -0.5]
    assert len(list(load_rollouts(store))) == 3


def test_metadata_is_json_and_cannot_hide_a_field():
    metadata = to_metadata(rollout(0, Outcome.OK, 1.0), stage="rl")
    assert json.loads(json.dumps(metadata)) == metadata
    with pytest.raises(ValueError, match="reward"):
        to_metadata(rollout(0, Outcome.OK, 1.0), reward=7)
