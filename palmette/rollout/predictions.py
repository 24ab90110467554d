"""Rollouts as SWE-bench predictions, and as plain lines of JSON."""

from __future__ import annotations

from typing import Any

from palmette.errors import UserError
from palmette.rollout.record import to_metadata
from palmette.rollout.run import Rollout


def to_prediction(rollout: Rollout, *, model: str) -> dict[str, str]:
    """Return ``{instance_id, model_name_or_path, model_patch}``, as ``swebench.harness`` reads a line.

    Raises `UserError` for a rollout whose patch was not kept.
    """
    if rollout.patch is None:
        raise UserError(
            f"rollout {rollout.sample} of {rollout.task} has no patch: it did not reach its grading, was made before "
            "patches were kept, or its task says nothing of how the work directory began"
        )
    return {"instance_id": rollout.task, "model_name_or_path": model, "model_patch": rollout.patch}


def to_line(rollout: Rollout) -> dict[str, Any]:
    """Return a rollout with its branches: per token its id, whether it was sampled, log-prob and weight version."""
    branches = [
        {
            "token_ids": branch.token_ids.tolist(),
            "sampled": branch.sampled.tolist(),
            "logprob": branch.logprob.tolist(),
            "version": branch.version.tolist(),
        }
        for branch in rollout.tree.branches()
    ]
    return to_metadata(rollout) | {"branches": branches}
