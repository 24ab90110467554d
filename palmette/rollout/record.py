"""Rollouts in a trajectory store and back: the tree as a tree, everything else as its metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from palmette.rollout.outcomes import Outcome
from palmette.rollout.run import Rollout
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree

_FIELDS = tuple(field.name for field in fields(Rollout) if field.name != "tree")


def to_metadata(rollout: Rollout, **extra: Any) -> dict[str, Any]:
    """Return a rollout without its tree as JSON-able values, with `extra` (stage, step, model...) beside its fields.

    Raises `ValueError` when `extra` would hide a field.
    """
    if hidden := set(extra) & set(_FIELDS):
        raise ValueError(f"{sorted(hidden)} are fields of a rollout")
    return {name: getattr(rollout, name) for name in _FIELDS} | {"outcome": str(rollout.outcome)} | extra


def from_metadata(metadata: dict[str, Any], tree: Tree) -> Rollout:
    """Return the rollout that `to_metadata` took apart; what was beside its fields is left out."""
    known = {name: metadata[name] for name in _FIELDS if name in metadata}
    return Rollout(**known | {"outcome": Outcome(metadata["outcome"]), "tree": tree})


def save_rollouts(store: TreeStore, rollouts: Iterable[Rollout], **extra: Any) -> None:
    """Append rollouts to a store as one segment: all of them are there afterwards, or none."""
    store.extend((to_metadata(rollout, **extra), rollout.tree) for rollout in rollouts)


def load_rollouts(store: TreeStore, **wanted: Any) -> Iterator[tuple[Rollout, dict[str, Any]]]:
    """Yield the rollouts of a store with their whole metadata, those whose metadata has the `wanted` values.

    Example: ``load_rollouts(TreeStore(run.path / "trees"), stage="evaluate", model="base")``.
    """
    for metadata, tree in store:
        if all(metadata.get(name) == value for name, value in wanted.items()):
            yield from_metadata(metadata, tree), metadata
