"""Which rollouts of thousands a report shows: some of every kind, chosen by chance that always falls alike."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from palmette.trajectory.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A rollout to show: its metadata as stored, its tree, and its place in the store."""

    index: int
    metadata: dict[str, Any]
    tree: Tree


def pick(
    records: Iterable[tuple[dict[str, Any], Tree]], *, a_kind: int = 4, most: int = 160
) -> tuple[list[Shown], int]:
    """Return at most `most` rollouts, at most `a_kind` of each kind, and how many there were.

    A kind is (stage, model, domain, outcome, solved or not). One pass, memory for `a_kind` trees a kind (reservoir
    sampling, Vitter's algorithm R); sorted by place in the store.
    """
    chance, total = random.Random(0), 0
    kinds: dict[tuple[Any, ...], tuple[int, list[Shown]]] = {}
    for index, (metadata, tree) in enumerate(records):
        total += 1
        kind = kind_of(metadata)
        seen, kept = kinds.get(kind, (0, []))
        shown = Shown(index=index, metadata=metadata, tree=tree)
        if len(kept) < a_kind:
            kept.append(shown)
        elif (place := chance.randrange(seen + 1)) < a_kind:
            kept[place] = shown
        kinds[kind] = (seen + 1, kept)
    layers = [[kept[layer] for _, kept in kinds.values() if layer < len(kept)] for layer in range(a_kind)]
    flat = [shown for layer in layers for shown in layer]  # every kind once before any kind twice
    return sorted(flat[:most], key=lambda shown: shown.index), total


def kind_of(metadata: dict[str, Any]) -> tuple[Any, ...]:
    """Return what makes two rollouts alike to a reader."""
    reward = metadata.get("reward")
    solved = None if reward is None else reward >= 1
    return (*(metadata.get(name) for name in ("stage", "model", "domain", "outcome")), solved)
