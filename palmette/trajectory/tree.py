"""The token tree: what a task's rollouts put before the model, each shared prefix once, and per token who wrote it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from palmette.trajectory.node import GIVEN, Node

ROOT = 0  # the empty node above every first token
_OWN_NAMES = frozenset({"token_ids", "sampled", "logprob", "version", "turn"})


class Tree:
    """An append-only radix tree of tokens; e.g. ``Tree().commit([1, 2], [3, 4], [-0.1, -0.5], version=0)``.

    Invariants:
    - The tokens on the path to the node that `commit` returned are exactly the prompt and the completion of that call.
    - A prefix is shared by token identity, never by text. Tokens that a later prompt runs through keep what they are:
      sampled ones stay sampled, given ones are never upgraded to sampled.
    - Every commit makes a turn of its own, also when an equal completion stands there already: two samples are two
      pieces of evidence. A later prompt that fits several equal runs goes on from the longest match and, among equals,
      from the latest (the answer that a client which had to retry has seen).
    - A node id names the path that ends in it: nodes are split where paths part, but the tokens from the root to an id
      never change.

    Not thread-safe: one writer.
    """

    __slots__ = ("_kinds", "_nodes", "_num_sampled", "_num_tokens", "_num_turns")

    def __init__(self) -> None:
        none = np.zeros(0, np.int32)
        root = Node(parent=GIVEN, start=0, turn=GIVEN, token_ids=none, logprob=none.astype(np.float32), version=none)
        self._nodes = [root]
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._num_tokens = self._num_sampled = self._num_turns = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens, each shared prefix counted once."""
        return self._num_tokens

    @property
    def num_sampled(self) -> int:
        """Number of tokens that the model sampled, each counted once."""
        return self._num_sampled

    @property
    def num_turns(self) -> int:
        """Number of commits that sampled something."""
        return self._num_turns

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays written so far, sorted."""
        return tuple(sorted(self._kinds))

    def commit(
        self,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        version: int,
        *,
        after: int = ROOT,
    ) -> int:
        """Append one completion and return the id of the node that ends it.

        `prompt_ids` (at least one) is what the engine was given, `token_ids` _T what it sampled under weight version
        `version`, `logprobs` _T natural logs of their probabilities. An empty completion records the prompt alone.
        A caller who knows that the prompt goes on from a node says so by `after`; then only what follows is compared,
        and this node is what is gone on from, also where equal tokens stand elsewhere.
        Raises `ValueError`, and then changes nothing, for unequal lengths, ids that are no non-negative int32,
        log-probs that are not finite and negative versions.
        """
        known = self._nodes[after].end
        prompt_T, sampled_T = _ids("prompt_ids", prompt_ids, known), _ids("token_ids", token_ids)
        logprob_T = np.array(logprobs, np.float32)
        if len(prompt_T) < known:
            raise ValueError(f"prompt_ids has {len(prompt_T)} tokens, the node it goes on from ends at {known}")
        if len(prompt_T) == 0:
            raise ValueError("prompt_ids is empty: the first token of a sequence cannot be sampled")
        if logprob_T.shape != sampled_T.shape:
            raise ValueError(f"token_ids has {len(sampled_T)} entries but logprobs has {logprob_T.size}")
        if not np.isfinite(logprob_T).all():
            raise ValueError("logprobs holds a number that is not finite")
        if version < 0:
            raise ValueError(f"version is {version}; a weight version is 0 or more")
        node, depth = self._match(prompt_T, after)
        node = self._cut(node, depth)
        if depth < len(prompt_T):
            rest_T = prompt_T[depth:]
            node = self._add(node, GIVEN, rest_T, np.broadcast_to(np.float32(0), len(rest_T)), GIVEN)
        if len(sampled_T):
            node = self._add(node, self._num_turns, sampled_T, logprob_T, version)
            self._num_turns += 1
            self._num_sampled += len(sampled_T)
        return node

    def write(self, name: str, node: int, values: ArrayLike) -> None:
        """Write `values` _T... under `name` on the last T tokens of the path from the root to `node`.

        T is often the length of the node (as in ``for node in tree.nodes()``), of a completion just committed, or of a
        whole branch. The first writing fixes dtype (bool, integer or float) and trailing shape of a name. A token holds
        one value a name, also where branches share it: the last one wins. Raises `ValueError` on a mismatch.
        """
        values_T = np.asarray(values)
        kind = (values_T.dtype, values_T.shape[1:])
        if not name or name in _OWN_NAMES:
            raise ValueError(f"{name!r} is not a name for an array; the tree itself holds {sorted(_OWN_NAMES)}")
        if values_T.ndim == 0 or values_T.dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected one bool, integer or float row a token, got {kind}")
        if self._kinds.get(name, kind) != kind:
            raise ValueError(f"{name} holds {self._kinds[name]} a token, got {kind}")
        if len(values_T) > self._nodes[node].end:
            raise ValueError(f"{name}: {len(values_T)} rows for a path of {self._nodes[node].end} tokens")
        stop = len(values_T)
        while stop:
            self._kinds[name] = kind
            owner = self._nodes[node]
            if len(owner) > stop:
                self._cut(node, owner.end - stop)  # the node keeps its lower part, all of which is written
            start = stop - len(owner)
            owner.arrays[name] = values_T[start:stop].copy()
            node, stop = owner.parent, start

    def branches(self) -> list[Branch]:
        """Return every root-to-leaf path, in the order in which the leaves were committed."""
        return [self.branch(node) for node in range(1, len(self._nodes)) if not self._nodes[node].children]

    def branch(self, node: int) -> Branch:
        """Return the path from the root to any `node`, read like a branch."""
        path = [self._nodes[step] for step in self.path(node)]
        turns: dict[int, tuple[int, int]] = {}
        for step in path:
            if step.turn != GIVEN:
                turns[step.turn] = (turns.get(step.turn, (step.start, 0))[0], step.end)
        return Branch(
            leaf=node,
            token_ids=_joined([step.token_ids for step in path], np.int32),
            sampled=_joined([np.full(len(step), step.turn != GIVEN) for step in path], np.bool_),
            logprob=_joined([step.logprob for step in path], np.float32),
            version=_joined([step.version for step in path], np.int32),
            turns=tuple(turns.values()),
            tree=self,
        )

    def nodes(self) -> list[int]:
        """Return all node ids, each parent before its children and siblings in order of their making, no empty root."""
        order: list[int] = []
        stack = self._nodes[ROOT].children[::-1]
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(reversed(self._nodes[node].children))
        return order

    def node(self, node: int) -> Node:
        """Return the record of a node; not to be changed."""
        return self._nodes[node]

    def path(self, node: int) -> list[int]:
        """Return the node ids from the first token down to `node`."""
        path: list[int] = []
        while node != ROOT:
            path.append(node)
            node = self._nodes[node].parent
        return path[::-1]

    def path_ids(self, node: int) -> np.ndarray:
        """Return the tokens from the first down to the last of `node` (int32 _T)."""
        return _joined([self._nodes[step].token_ids for step in self.path(node)], np.int32)

    def parts_at(self, leaf: int) -> bool:
        """Say whether the commit that ended in `leaf` made a branch beside others."""
        above = self._nodes[leaf].parent
        if above != ROOT and self._nodes[above].turn == GIVEN and len(self._nodes[above].children) == 1:
            above = self._nodes[above].parent  # above what was given before the answer
        return len(self._nodes[above].children) > 1

    def sampled(self, node: int) -> np.ndarray:
        """Return per token of the node itself whether it was sampled (bool _T, all alike)."""
        return np.full(len(self._nodes[node]), self._nodes[node].turn != GIVEN)

    @classmethod
    def restore(cls, nodes: Iterable[tuple[int, Node]]) -> Tree:
        """Rebuild a tree from the ids and records of another in the order of `nodes()`; the records become its own.

        Ids and order of siblings are kept. Raises `ValueError` if the records do not make one tree.
        """
        given, tree = list(nodes), cls()
        slots: dict[int, Node] = {ROOT: tree._nodes[ROOT]}
        for identity, node in given:
            if identity in slots or node.parent not in slots or not 0 < identity <= len(given) or len(node) == 0:
                raise ValueError(f"node {identity} below {node.parent} does not fit into the tree")
            if any(len(values) != len(node) for values in (node.logprob, node.version, *node.arrays.values())):
                raise ValueError(f"the arrays of node {identity} differ in length")
            for name, values in node.arrays.items():
                kind = (values.dtype, values.shape[1:])
                if tree._kinds.setdefault(name, kind) != kind:
                    raise ValueError(f"array {name} of node {identity} differs in kind from the others")
            node.start, node.children = slots[node.parent].end, []
            slots[node.parent].children.append(identity)
            slots[identity] = node
        tree._num_turns = max((node.turn for _, node in given), default=GIVEN) + 1
        tree._num_tokens = sum(len(node) for _, node in given)
        tree._num_sampled = sum(len(node) for _, node in given if node.turn != GIVEN)
        tree._nodes = [slots[identity] for identity in range(len(slots))]
        return tree

    def _match(self, prompt_T: np.ndarray, after: int) -> tuple[int, int]:
        """Return the deepest node that the prompt reaches (the latest of equals) and how many of its tokens fit."""
        best, best_depth = after, self._nodes[after].end
        stack = self._nodes[after].children[::-1]
        while stack:  # in preorder, so that the later of equals is seen last
            child = stack.pop()
            node, rest_T = self._nodes[child], prompt_T[self._nodes[child].start :]
            if len(rest_T) == 0 or node.token_ids[0] != rest_T[0]:
                continue
            length = _common(node.token_ids, rest_T)
            if node.start + length >= best_depth:
                best, best_depth = child, node.start + length
            if length == len(node):
                stack.extend(reversed(node.children))
        return best, best_depth

    def _cut(self, node: int, depth: int) -> int:
        """Return the node that ends at `depth` on the path to `node`, which keeps its id for what lies below."""
        lower = self._nodes[node]
        if depth == lower.end:
            return node
        upper = lower.head(depth - lower.start)
        upper.children = [node]
        identity = len(self._nodes)
        self._nodes.append(upper)
        siblings = self._nodes[lower.parent].children
        siblings[siblings.index(node)] = identity
        lower.drop_head(len(upper), identity)
        return identity

    def _add(self, parent: int, turn: int, token_ids: np.ndarray, logprob: np.ndarray, version: int) -> int:
        node = Node(
            parent=parent,
            start=self._nodes[parent].end,
            turn=turn,
            token_ids=token_ids.copy(),  # a part of a prompt would keep all of it
            logprob=logprob,
            version=np.broadcast_to(np.int32(version), len(token_ids)),  # takes no memory
        )
        identity = len(self._nodes)
        self._nodes.append(node)
        self._nodes[parent].children.append(identity)
        self._num_tokens += len(node)
        return identity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """One root-to-leaf path: exactly what the engine saw and sampled up to its last token.

    A turn whose tail is not on this path (a scaffold changed it) appears with the part that is. Arrays are copies.
    """

    leaf: int
    token_ids: np.ndarray  # int32 _T
    sampled: np.ndarray  # bool _T
    logprob: np.ndarray  # float32 _T, 0 where given
    version: np.ndarray  # int32 _T, -1 where given
    turns: tuple[tuple[int, int], ...]  # [start, end) of the sampled turns
    tree: Tree = field(repr=False)

    def array(self, name: str, fill: float = 0) -> np.ndarray:
        """Return what was written under `name` (_T..., its own dtype), `fill` on tokens that nobody wrote.

        Raises `KeyError` for a name that was never written.
        """
        if name not in self.tree._kinds:
            raise KeyError(f"no array {name!r} in this tree; it has {list(self.tree.names)}")
        dtype, tail = self.tree._kinds[name]
        values_T = np.full((len(self.token_ids), *tail), fill, dtype)
        for step in self.tree.path(self.leaf):
            node = self.tree.node(step)
            if name in node.arrays:
                values_T[node.start : node.end] = node.arrays[name]
        return values_T


def _ids(name: str, values: Sequence[int], known: int = 0) -> np.ndarray:
    """Return a copy as int32 _T (the caller may go on changing its own); its first `known` are not looked at."""
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    try:
        whole = isinstance(listed, array) and listed.typecode == "i"
        ids_T = np.array(
            listed if whole else array("i", listed), np.int32
        )  # twice as fast as numpy on a list, and strict about its items
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{name} must be a flat sequence of int32 ids: {error}") from None
    if len(ids_T) > known and ids_T[known:].min() < 0:
        raise ValueError(f"{name} holds the negative id {ids_T[known:].min()}")
    return ids_T


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Return the length of the common prefix."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
