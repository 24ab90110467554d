"""A rollout as data for the page: messages, and every token with who wrote it, its log-prob and its advantage.

The page's script draws a rollout when it is opened; held as data, a token costs some ten bytes instead of a hundred
of markup. A node of the tree appears once, however many branches run through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from palmette.report.pick import Shown
from palmette.report.tokens import Pieces
from palmette.trajectory.node import GIVEN
from palmette.trajectory.tree import Tree

_FACTS = (
    "task", "domain", "tier", "stage", "step", "model", "group", "sample", "attempt", "outcome", "reward",
    "turns", "sampled_tokens", "wall_s", "detail",
)  # fmt: skip


class TokenTable:
    """Texts of tokens, each id once; `words` maps id → text as the page needs it."""

    def __init__(self, pieces: Pieces | None) -> None:
        self._pieces = pieces
        self.words: dict[int, str] = {}

    def exceptions(self, token_ids_T: Sequence[int]) -> list[str | None]:
        """Return for each token None, or its text where it is not what `words` says (a character in several tokens)."""
        if self._pieces is None:
            texts = [f"⟨{token_id}⟩" for token_id in token_ids_T]
        else:
            texts = self._pieces.texts(token_ids_T)
        found = zip(token_ids_T, texts, strict=True)
        return [None if self.words.setdefault(token_id, text) == text else text for token_id, text in found]


def view(shown: Shown, table: TokenTable) -> dict[str, Any]:
    """Return a rollout as JSON-able data.

    ``facts`` are its metadata, ``pictures`` what its verifier saw (PNG in base64 by name), ``messages`` its
    conversation (``leaf`` is an index into nodes), ``nodes`` its tree in order, a parent before its children: ``p``
    index of the parent (-1 at the root), ``i`` token ids, ``t`` the turn that sampled them (-1 where given), ``x``
    texts that differ from the page's table by offset, and on sampled nodes ``l`` log-probs, ``v`` the weight version,
    ``a`` advantages and ``h`` the teacher's log-probs (absent where nobody wrote them). A list is one number where all
    its numbers are equal.
    """
    places = {node: place for place, node in enumerate(shown.tree.nodes())}
    facts = {name: shown.metadata[name] for name in _FACTS if shown.metadata.get(name) is not None}
    facts["wall_s"] = round(float(facts.get("wall_s", 0.0)), 2)
    return {
        "id": shown.index,
        "facts": facts,
        "pictures": shown.metadata.get("pictures") or {},
        "messages": [_placed(message, places) for message in shown.metadata.get("conversation") or []],
        "nodes": _nodes(shown.tree, table),
    }


def _placed(message: dict[str, Any], places: dict[int, int]) -> dict[str, Any]:
    """Return a message whose `leaf`, if it has one, is the node's index in the view and no longer its id."""
    return message | {"leaf": places[message["leaf"]]} if message.get("leaf") in places else message


def _nodes(tree: Tree, table: TokenTable) -> list[dict[str, Any]]:
    order = tree.nodes()
    places = {node: place for place, node in enumerate(order)}
    texts = _texts(tree, table)
    nodes = []
    for identity in order:
        node = tree.node(identity)
        drawn: dict[str, Any] = {"p": places.get(node.parent, -1), "i": node.token_ids.tolist(), "t": node.turn}
        if node.turn != GIVEN:
            drawn |= {"l": np.round(node.logprob.astype(np.float64), 3).tolist(), "v": int(node.version[0])}
            written = {"a": "advantage", "h": "teacher_logprob"}
            drawn |= {key: _short(node.arrays[name]) for key, name in written.items() if name in node.arrays}
        if strange := {str(offset): text for offset, text in enumerate(texts[identity]) if text is not None}:
            drawn["x"] = strange
        nodes.append(drawn)
    return nodes


def _texts(tree: Tree, table: TokenTable) -> dict[int, list[str | None]]:
    """Return the exceptional texts of every node, decoded in the context of the first branch through it."""
    texts: dict[int, list[str | None]] = {}
    for branch in tree.branches():
        strange = table.exceptions(branch.token_ids.tolist())
        for identity in tree.path(branch.leaf):
            node = tree.node(identity)
            texts.setdefault(identity, strange[node.start : node.end])
    return texts


def _short(values_T: np.ndarray) -> float | list[float]:
    rounded_T = np.round(values_T.astype(np.float64), 3)
    return float(rounded_T[0]) if (rounded_T == rounded_T[0]).all() else rounded_T.tolist()
