"""Rollouts of other runs as samples to imitate: exact ones as their trees are, text alone only if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palmette.chat.template import Renderer
from palmette.errors import UserError
from palmette.evaluate.metrics import PASS
from palmette.rollout.record import load_rollouts
from palmette.rollout.retell import retell
from palmette.train.samples import Sample, from_demonstration, from_tree
from palmette.train.sft import SftConfig
from palmette.trajectory.store import TreeStore


def recorded_samples(config: SftConfig, renderer: Renderer, context_tokens: int) -> tuple[list[Sample], int]:
    """Return what `config.recordings` give to imitate, and how many samples were left out as longer than the context.

    Of rollouts with a reward those that solved their task; of others (recordings) all. Raises `UserError` for a run
    that is not there, holds nothing, or holds text alone without `config.retokenise`.
    """
    samples = [sample for path in config.recordings for sample in _of_run(Path(path), config.retokenise, renderer)]
    kept = [sample for sample in samples if len(sample.token_ids_T) <= context_tokens]
    return kept, len(samples) - len(kept)


def refuse_inexact(metadata: Mapping[str, Any], source: Path) -> None:
    """Raise `UserError` for a rollout whose tokens are not those that were sampled."""
    if metadata.get("exact", True) is False:
        raise UserError(
            f"{source}: rollouts that are text alone cannot be learned from by reinforcement; only sft can imitate "
            "them, with sft.recordings and sft.retokenise = true"
        )


def _of_run(path: Path, retokenise: bool, renderer: Renderer) -> list[Sample]:
    if not (path / "trees").is_dir():
        raise UserError(f"sft.recordings: {path} is no run with rollouts")
    samples: list[Sample] = []
    for rollout, metadata in load_rollouts(TreeStore(path / "trees")):
        if rollout.reward is not None and rollout.reward < PASS:
            continue
        if metadata.get("exact", True) is not False:
            samples += from_tree(rollout.tree) if rollout.reward is not None else []
            continue
        if not retokenise:
            raise UserError(
                f"{path} holds rollouts that are text alone, whose tokens are not those that were sampled; "
                "sft.retokenise = true imitates their text tokenised anew"
            )
        told = retell(rollout.conversation, metadata.get("tools") or (), renderer)
        samples += [from_demonstration(one.token_ids, one.sampled) for one in told]
    if not samples:
        raise UserError(f"sft.recordings: {path} holds nothing to imitate")
    return samples
