"""The compressed tree of any sequences of tokens: equal prefixes once, found by sorting, without a step per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

NONE = -1  # the parent of a root


@dataclass(frozen=True, slots=False, kw_only=True, eq=False)
class Trie:
    """Sequences with their shared prefixes merged; a node is a run of tokens in which no sequence begins to differ.

    Every distinct (prefix, token) is one of N unique tokens, numbered so that a node's tokens are neighbours. Nodes
    are numbered so that a parent comes before its children; a root has no tokens above it, and there may be several.
    """

    token_ids_N: np.ndarray  # int64
    depth_N: np.ndarray  # int64, number of tokens before this one
    parent_K: np.ndarray  # int64, NONE for a root
    start_K: np.ndarray  # int64, unique token that begins the node
    length_K: np.ndarray  # int64, at least 1
    leaf_B: np.ndarray  # int64, node in which the sequence ends, NONE for an empty one
    index_T: np.ndarray  # int64, unique token of every token of every sequence, one sequence after the other
    offset_B: np.ndarray  # int64, B + 1 of them: where each sequence begins in `index_T`

    @property
    def num_flat(self) -> int:
        """Number of tokens of all sequences."""
        return len(self.index_T)

    @property
    def num_unique(self) -> int:
        """Number of tokens when each shared prefix counts once."""
        return len(self.token_ids_N)

    @cached_property
    def children_K(self) -> list[list[int]]:
        """Children of every node."""
        children: list[list[int]] = [[] for _ in self.parent_K]
        for node, parent in enumerate(self.parent_K.tolist()):
            if parent != NONE:
                children[parent].append(node)
        return children

    @cached_property
    def count_K(self) -> np.ndarray:
        """Number of sequences through each node (int64)."""
        return self._summed(np.bincount(self.leaf_B[self.leaf_B != NONE], minlength=len(self.parent_K)))

    @cached_property
    def size_K(self) -> np.ndarray:
        """Number of unique tokens in each node and everything below it (int64)."""
        return self._summed(self.length_K)

    def path(self, node: int) -> list[int]:
        """Return the nodes from a root down to `node`."""
        path: list[int] = []
        while node != NONE:
            path.append(node)
            node = int(self.parent_K[node])
        return path[::-1]

    def divided(self, longest: int) -> Trie:
        """Return the same tree with no node of more than `longest` tokens; raises `ValueError` below 1."""
        if longest < 1:
            raise ValueError("a node needs at least one token")
        pieces_K = -(-self.length_K // longest)
        if (pieces_K == 1).all():
            return self
        first_K = np.cumsum(pieces_K) - pieces_K  # number of each node's first piece; its last is what others hang on
        last_K = first_K + pieces_K - 1
        node_P = np.repeat(np.arange(len(pieces_K)), pieces_K)
        piece_P = np.arange(len(node_P)) - first_K[node_P]
        above_K = np.where(self.parent_K == NONE, NONE, last_K[self.parent_K])
        return Trie(
            token_ids_N=self.token_ids_N,
            depth_N=self.depth_N,
            parent_K=np.where(piece_P == 0, above_K[node_P], np.arange(len(node_P)) - 1),
            start_K=self.start_K[node_P] + piece_P * longest,
            length_K=np.minimum(self.length_K[node_P] - piece_P * longest, longest),
            leaf_B=np.where(self.leaf_B == NONE, NONE, last_K[self.leaf_B]),
            index_T=self.index_T,
            offset_B=self.offset_B,
        )

    def _summed(self, value_K: np.ndarray) -> np.ndarray:
        total = value_K.astype(np.int64).tolist()
        parents = self.parent_K.tolist()
        for node in range(len(total) - 1, -1, -1):
            if parents[node] != NONE:
                total[parents[node]] += total[node]
        return np.array(total, np.int64)


def build(sequences: Sequence[np.ndarray], *, also: Sequence[np.ndarray] | None = None) -> Trie:
    """Merge the common prefixes of `sequences` (each int _T; empty ones, duplicates and prefixes of others are fine).

    `also` (integers _T or _T_W, one a sequence) must be equal too where tokens are merged: recorded expert choices, a
    weight version. Raises `ValueError` if it does not fit. Costs one sort and a vectorised comparison of neighbours.
    """
    rows = [_rows(tokens, also[b] if also else None) for b, tokens in enumerate(sequences)]
    if len({r.shape[1] for r in rows}) > 1:
        raise ValueError("`also` differs in width between sequences")
    keys = [r.tobytes() for r in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shared = [0] * bool(rows) + [_common(rows[a], rows[b]) for a, b in pairwise(order)]
    growth = _Growth()
    offset_B = np.concatenate(([0], np.cumsum([len(r) for r in rows]))).astype(np.int64)
    index_T = np.empty(int(offset_B[-1]), np.int64)
    leaf_B = np.full(len(rows), NONE, np.int64)
    fresh: list[np.ndarray] = []
    depth: list[np.ndarray] = []
    before = index_T[:0]
    for b, common in zip(order, shared, strict=True):
        length, mine = len(rows[b]), index_T[offset_B[b] : offset_B[b + 1]]
        mine[:common] = before[:common]
        mine[common:] = np.arange(growth.tokens, growth.tokens + length - common)
        leaf_B[b] = growth.add(common, length)
        fresh.append(np.asarray(sequences[b])[common:])
        depth.append(np.arange(common, length))
        before = mine
    order_K = np.argsort(np.array(growth.depth, np.int64), kind="stable")  # a parent begins above its children
    new_K = np.empty_like(order_K)
    new_K[order_K] = np.arange(len(order_K))
    parent_K = np.array(growth.parent, np.int64)[order_K]
    return Trie(
        token_ids_N=np.concatenate([*fresh, np.zeros(0, np.int64)]).astype(np.int64),
        depth_N=np.concatenate([*depth, np.zeros(0, np.int64)]).astype(np.int64),
        parent_K=np.where(parent_K == NONE, NONE, new_K[parent_K] if len(new_K) else NONE),
        start_K=np.array(growth.start, np.int64)[order_K],
        length_K=np.array(growth.length, np.int64)[order_K],
        leaf_B=np.where(leaf_B == NONE, NONE, new_K[leaf_B] if len(new_K) else NONE),
        index_T=index_T,
        offset_B=offset_B,
    )


class _Growth:
    """The nodes so far; sequences come in sorted order, so only the path to the latest one can still be cut."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.depth: list[int] = []  # of the first token
        self.start: list[int] = []  # unique token
        self.length: list[int] = []
        self.tokens = 0
        self._latest: list[int] = []  # nodes from the root to where the latest sequence ends

    def add(self, common: int, length: int) -> int:
        """Add a sequence that shares `common` tokens with the one before it; return the node in which it ends."""
        while self._latest and self.depth[self._latest[-1]] >= common:
            self._latest.pop()
        if self._latest and self._end(self._latest[-1]) > common:
            self._latest[-1] = self._cut(self._latest[-1], common)
        if length > common:
            above = self._latest[-1] if self._latest else NONE
            self._latest.append(self._node(above, common, self.tokens, length - common))
            self.tokens += length - common
        return self._latest[-1] if self._latest else NONE

    def _cut(self, node: int, depth: int) -> int:
        """Give the part of `node` above `depth` a node of its own; the lower part keeps the number and the children."""
        taken = depth - self.depth[node]
        upper = self._node(self.parent[node], self.depth[node], self.start[node], taken)
        self.parent[node], self.depth[node] = upper, depth
        self.start[node] += taken
        self.length[node] -= taken
        return upper

    def _node(self, parent: int, depth: int, start: int, length: int) -> int:
        self.parent.append(parent)
        self.depth.append(depth)
        self.start.append(start)
        self.length.append(length)
        return len(self.parent) - 1

    def _end(self, node: int) -> int:
        return self.depth[node] + self.length[node]


def _rows(tokens: np.ndarray, extra: np.ndarray | None) -> np.ndarray:
    """Return big-endian _T_W, so that comparing bytes compares token by token."""
    columns = [np.asarray(tokens).reshape(-1, 1)]
    if extra is not None:
        if len(extra) != len(tokens):
            raise ValueError(f"`also` has {len(extra)} rows for {len(tokens)} tokens")
        columns.append(np.asarray(extra).reshape(len(tokens), -1) if len(tokens) else np.zeros((0, _width(extra)), int))
    return np.concatenate(columns, axis=1).astype(">u4")


def _width(extra: np.ndarray) -> int:
    return int(np.prod(np.asarray(extra).shape[1:], dtype=int))


def _common(a: np.ndarray, b: np.ndarray) -> int:
    shortest = min(len(a), len(b))
    differs = (a[:shortest] != b[:shortest]).any(axis=1)
    first = int(differs.argmax()) if shortest else 0
    return first if shortest and differs[first] else shortest
