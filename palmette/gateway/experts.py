"""Expert routes of a path of the tree, of which each answer may tell only those that were computed for it."""

from __future__ import annotations

import numpy as np

from palmette.trajectory.tree import Tree


def with_earlier(tree: Tree, leaf: int, routes_TLK: np.ndarray) -> np.ndarray:
    """Return the routes of a path, with those that an earlier answer told where this one tells none (-1)."""
    if "route" not in tree.names:
        return routes_TLK
    return np.where(routes_TLK < 0, tree.branch(leaf).array("route", fill=-1), routes_TLK)
