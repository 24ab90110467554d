"""From a tree to flat sequences, so that training counts every sampled token as often as it means to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from palmette.trajectory.tree import Branch, Tree

Shared = Literal["once", "each"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Owned:
    """A branch and which of its sampled tokens carry loss here; `weight` is its share of all that do in the tree."""

    branch: Branch
    own: np.ndarray  # bool _T, a subset of branch.sampled
    weight: float


def to_branches(tree: Tree, *, shared: Shared = "once") -> list[Owned]:
    """Return every branch that owns a token, in the order of `tree.branches()`.

    "once" is the rollout-identity convention: a rollout is the unit, and into how many branches compaction, side
    requests or retries split it must not change its loss. A sampled token that several branches share is owned by the
    first of them alone, so the `own` masks cover each sampled token of the tree exactly once. "each" lets every branch
    through a token count it (the plain sum over branches of DESIGN section 5). The weights sum to 1 either way.
    """
    seen: set[int] = set()
    found: list[tuple[Branch, np.ndarray]] = []
    for branch in tree.branches():
        own_T = branch.sampled.copy()
        if shared == "once":
            for step in tree.path(branch.leaf):
                if step in seen:
                    own_T[tree.node(step).start : tree.node(step).end] = False
                seen.add(step)
        if own_T.any():
            found.append((branch, own_T))
    total = sum(int(own_T.sum()) for _, own_T in found)
    return [Owned(branch=branch, own=own_T, weight=int(own_T.sum()) / total) for branch, own_T in found]
