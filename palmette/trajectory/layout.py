"""The order of a tree's tokens in a forward pass, chosen so that attention over it is a few dense blocks.

A node's *heavy* child is the one with the most tokens below it; the nodes from any node down through heavy children
are its heavy path and lie side by side. What else hangs on a path follows it, deepest attachment first. Then:

- tokens of one heavy path see each other in one causal *square*;
- all that hangs on a node sees the path above in one unmasked *rectangle*;
- the descendants of a token are the tokens from itself up to `end`: row i may see column j iff j <= i < end_j;
- a bunch of tiny subtrees costs less as one *masked* square than as many blocks (`block_pairs`).

A path is left by a lighter child at most log2(N) times on the way down, so that few rectangles lie above any token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from palmette.trajectory.trie import NONE, Trie

BLOCK_PAIRS = 2048  # attention pairs that take as long as the fixed cost of one more block, for wide models


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Tokens of one forward pass and the blocks of its attention; rows and columns count from the part's first token.

    `gateways` are the tokens in parts above that the part's tokens see: (row, row end, part, column, column end).
    """

    start: int  # in the layout
    end: int
    parent: int  # index of the part that holds the tokens right above, or below them the next one up; NONE
    squares: tuple[tuple[int, int], ...]
    masked: tuple[tuple[int, int], ...]
    rectangles: tuple[tuple[int, int, int, int], ...]  # row, row end, column, column end
    gateways: tuple[tuple[int, int, int, int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Unique tokens N in the order of their forward passes, one part after the other, parents before children."""

    token_ids_N: np.ndarray  # int64
    depth_N: np.ndarray  # int64, position of the token
    source_N: np.ndarray  # int64, the token before it: its logits predict this one; NONE at depth 0
    count_N: np.ndarray  # int64, sequences through the token
    end_N: np.ndarray  # int64, one past the last descendant within the part, counted from the part's first token
    index_T: np.ndarray  # int64, token in the layout of every token of every sequence, one sequence after the other
    offset_B: np.ndarray  # int64, B + 1 of them: where each sequence begins in `index_T`
    parts: tuple[Part, ...]

    @property
    def pairs(self) -> int:
        """Number of (query, key) pairs that attention over the tree needs."""
        return int((self.depth_N + 1).sum())

    @property
    def pairs_flat(self) -> int:
        """Number of pairs when every sequence is computed on its own."""
        return int((self.count_N * (self.depth_N + 1)).sum())

    @property
    def num_flat(self) -> int:
        """Number of tokens of all sequences."""
        return len(self.index_T)

    @property
    def overlap(self) -> float:
        """The prefix overlap ratio POR = 1 - N / N_flat (Tree Training, arXiv 2511.00413)."""
        return 1 - len(self.token_ids_N) / self.num_flat if self.num_flat else 0.0

    def index(self, sequence: int) -> np.ndarray:
        """Return the layout's token of every token of a sequence (int64 _T)."""
        return self.index_T[self.offset_B[sequence] : self.offset_B[sequence + 1]]


def lay_out(
    trie: Trie, parts: Sequence[tuple[int, Sequence[int]]] | None = None, *, block_pairs: int = BLOCK_PAIRS
) -> Layout:
    """Put a trie in order; `parts` are (index of the parent part or NONE, nodes), parents first, None for one part.

    One more block of attention is worth `block_pairs` pairs that need not be computed. Above a node of a part come
    nodes of the same part, or of the chain of parts above it. Raises `ValueError` when the parts do not hold every
    node once.
    """
    given = parts if parts is not None else [(NONE, range(len(trie.parent_K)))]
    part_K = np.full(len(trie.parent_K), NONE)
    place_K = np.full(len(trie.parent_K), NONE)  # of a node's first token within its part
    place_N = np.empty(trie.num_unique, np.int64)  # of every unique token in the layout
    ends: list[np.ndarray] = []
    laid: list[Part] = []
    for number, (parent, nodes) in enumerate(given):
        if (part_K[list(nodes)] != NONE).any():
            raise ValueError("a node lies in two parts")
        part_K[list(nodes)] = number
        placed = _Placing(trie, nodes, block_pairs)
        start = laid[-1].end if laid else 0
        for node, place in zip(placed.order, placed.places, strict=True):
            place_K[node] = place
            first = trie.start_K[node]
            place_N[first : first + trie.length_K[node]] = np.arange(trie.length_K[node]) + start + place
        ends.append(np.repeat(placed.ends, trie.length_K[placed.order]))
        laid.append(
            Part(
                start=start,
                end=start + placed.position,
                parent=parent,
                squares=tuple(placed.squares),
                masked=tuple(placed.masked),
                rectangles=tuple(placed.rectangles),
                gateways=tuple(_gateways(trie, placed.groups, part_K, place_K)),
            )
        )
    if (part_K == NONE).any():
        raise ValueError("a node lies in no part")
    return _assembled(trie, place_N, ends, laid)


def _assembled(trie: Trie, place_N: np.ndarray, ends: list[np.ndarray], laid: list[Part]) -> Layout:
    order_N = np.empty_like(place_N)
    order_N[place_N] = np.arange(len(place_N))
    source_U = np.arange(-1, trie.num_unique - 1)  # of unique tokens: the one before, but for the first of a node
    last_K = trie.start_K + trie.length_K - 1
    source_U[trie.start_K] = np.where(trie.parent_K == NONE, NONE, last_K[trie.parent_K])
    source_N = source_U[order_N]
    count_U = np.empty(trie.num_unique, np.int64)
    count_U[np.concatenate([*map(_run, trie.start_K, trie.length_K), np.zeros(0, np.int64)])] = np.repeat(
        trie.count_K, trie.length_K
    )
    return Layout(
        token_ids_N=trie.token_ids_N[order_N],
        depth_N=trie.depth_N[order_N],
        source_N=np.where(source_N == NONE, NONE, place_N[source_N]),
        count_N=count_U[order_N],
        end_N=np.concatenate([*ends, np.zeros(0, np.int64)]),
        index_T=place_N[trie.index_T],
        offset_B=trie.offset_B,
        parts=tuple(laid),
    )


def _run(start: int, length: int) -> np.ndarray:
    return np.arange(start, start + length)


def _gateways(
    trie: Trie, groups: Sequence[tuple[int, int, int]], part_K: np.ndarray, place_K: np.ndarray
) -> list[tuple[int, int, int, int, int]]:
    """Return what each group (row, row end, node it hangs on) sees in other parts, neighbouring columns as one."""
    found: list[tuple[int, int, int, int, int]] = []
    for row, row_end, above in groups:
        runs: list[tuple[int, int, int]] = []
        for node in trie.path(above):
            part, place = int(part_K[node]), int(place_K[node])
            if runs and runs[-1][0] == part and runs[-1][2] == place:
                runs[-1] = (part, runs[-1][1], place + int(trie.length_K[node]))
            else:
                runs.append((part, place, place + int(trie.length_K[node])))
        found += [(row, row_end, *run) for run in runs]
    return found


@dataclass(slots=True)
class _Plan:
    """How a run of sibling subtrees is laid out, and what that costs in pairs."""

    roots: list[int]
    tokens: int
    cost: int
    fused: bool


@dataclass(slots=True)
class _Placing:
    """Places the nodes of one part."""

    trie: Trie
    nodes: Sequence[int]
    block_pairs: int
    order: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    position: int = 0
    squares: list[tuple[int, int]] = field(default_factory=list)
    masked: list[tuple[int, int]] = field(default_factory=list)
    rectangles: list[tuple[int, int, int, int]] = field(default_factory=list)
    groups: list[tuple[int, int, int]] = field(default_factory=list)  # row, row end, node above (in another part)
    _children: dict[int, list[int]] = field(default_factory=dict)
    _size: dict[int, int] = field(default_factory=dict)
    _plans: dict[int, list[_Plan]] = field(default_factory=dict)  # of what hangs on a node
    _end: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inside = sorted(int(node) for node in self.nodes)
        self._children = {node: [] for node in inside}
        self._size = {node: int(self.trie.length_K[node]) for node in inside}
        hanging: dict[int, list[int]] = {}
        for node in inside:
            parent = int(self.trie.parent_K[node])
            (self._children if parent in self._children else hanging).setdefault(parent, []).append(node)
        for node in reversed(inside):
            parent = int(self.trie.parent_K[node])
            if parent in self._size:
                self._size[parent] += self._size[node]
        for above, roots in hanging.items():
            start = self.position
            self._place_all(self._plan(roots))
            if above != NONE:
                self.groups.append((start, self.position, above))
        self.ends = np.array([self._end[node] for node in self.order], np.int64)

    def _heavy_path(self, node: int) -> list[int]:
        path = [node]
        while below := self._children[path[-1]]:
            path.append(max(below, key=lambda child: self._size[child]))
        return path

    def _plan(self, roots: list[int]) -> list[_Plan]:
        """Decide which neighbours among sibling subtrees are fused: greedily, while a run costs less than its parts."""
        plans: list[_Plan] = []
        for root in roots:
            tokens = self._size[root]
            apart, fused = self._cost(root), tokens * tokens + self.block_pairs
            plan = _Plan(roots=[root], tokens=tokens, cost=min(apart, fused), fused=fused < apart)
            if plans:
                both = plans[-1].tokens + tokens
                joint = both * both + self.block_pairs
                if joint < plans[-1].cost + plan.cost:
                    plans[-1] = _Plan(roots=[*plans[-1].roots, root], tokens=both, cost=joint, fused=True)
                    continue
            plans.append(plan)
        return plans

    def _cost(self, root: int) -> int:
        """Return the cost of a subtree as blocks, planning all that hangs on its heavy path."""
        path = self._heavy_path(root)
        above, cost = 0, self.block_pairs
        for place, node in enumerate(path):
            above += int(self.trie.length_K[node])
            light = [child for child in self._children[node] if path[place + 1 : place + 2] != [child]]
            self._plans[node] = plans = self._plan(light) if light else []
            cost += sum(plan.cost + plan.tokens * above for plan in plans) + self.block_pairs * bool(plans)
        return cost + above * (above + 1) // 2

    def _place_all(self, plans: list[_Plan]) -> None:
        for plan in plans:
            start = self.position
            for root in plan.roots:
                (self._place_plain if plan.fused else self._place_blocks)(root)
            if plan.fused:
                self.masked.append((start, self.position))

    def _place_blocks(self, root: int) -> None:
        path, start = self._heavy_path(root), self.position
        for node in path:
            self._put(node)
        self.squares.append((start, self.position))
        column_end = self.position
        for node in reversed(path):
            if plans := self._plans[node]:
                row = self.position
                self._place_all(plans)
                self.rectangles.append((row, self.position, start, column_end))
            self._end[node] = self.position
            column_end -= int(self.trie.length_K[node])

    def _place_plain(self, root: int) -> None:
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                self._end[node] = self.position
                continue
            self._put(node)
            stack.append((node, True))
            stack += [(child, False) for child in reversed(self._children[node])]

    def _put(self, node: int) -> None:
        self.order.append(node)
        self.places.append(self.position)
        self.position += int(self.trie.length_K[node])
