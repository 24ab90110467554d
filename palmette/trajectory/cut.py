"""Cutting a tree into connected parts that fit into memory one root-to-leaf path at a time."""

from __future__ import annotations

from palmette.trajectory.trie import NONE, Trie

_GRAIN = 8  # a node is at most budget / _GRAIN tokens long, so that a part on a long path is nearly full


def cut(trie: Trie, budget: int) -> tuple[Trie, list[tuple[int, list[int]]]]:
    """Return the trie (long nodes divided) and parts of at most `budget` tokens as (parent part or NONE, nodes).

    Subtrees that fit are packed together, those below one part only with their like, so that a finished part frees all
    it held. One that does not fit gives the upper end of its heavy path as a part, below which the rest is cut in turn:
    what must be alive at once is a path of the tree, not its side branches. Raises `ValueError` below one token.
    """
    if budget < 1:
        raise ValueError("the token budget must be at least 1")
    if trie.num_unique <= budget:
        return trie, [(NONE, list(range(len(trie.parent_K))))] if trie.num_unique else []
    trie = trie.divided(max(budget // _GRAIN, 1))
    size = trie.size_K.tolist()
    parts: list[tuple[int, list[int]]] = []
    waiting: list[tuple[int, list[int]]] = [(NONE, [k for k, parent in enumerate(trie.parent_K) if parent == NONE])]
    while waiting:
        parent, roots = waiting.pop()
        room = 0
        for root in roots:
            if size[root] > budget:
                continue
            if size[root] > room:
                parts.append((parent, []))
                room = budget
            parts[-1][1].extend(_below(trie, root))
            room -= size[root]
        for root in roots:
            if size[root] > budget:
                trunk, rest = _trunk(trie, root, budget)
                parts.append((parent, trunk))
                waiting.append((len(parts) - 1, rest))
    return trie, parts


def _trunk(trie: Trie, root: int, budget: int) -> tuple[list[int], list[int]]:
    """Return the nodes of the heavy path from `root` that fit, and the roots of all that hangs on them."""
    trunk, rest, node = [root], [], root
    room = budget - int(trie.length_K[root])
    while children := trie.children_K[node]:
        heavy = max(children, key=lambda child: trie.size_K[child])
        fits = trie.length_K[heavy] <= room
        rest += [child for child in children if child != heavy or not fits]
        if not fits:
            break
        trunk.append(heavy)
        room -= int(trie.length_K[heavy])
        node = heavy
    return trunk, rest


def _below(trie: Trie, root: int) -> list[int]:
    found = [root]
    for node in found:
        found += trie.children_K[node]
    return found
