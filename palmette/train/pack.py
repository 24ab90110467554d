"""From samples to forward passes: padded rows of whole samples, or the parts of the tree that the samples make.

Both say the same thing: here are tokens, and for each *edge* (a token and one that follows it) tell me the log-prob;
and the pairs (branch, token) that losses are written on each name their edge. In a tree an edge is computed once
however many branches run through it, and a branch point keeps one edge a child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from palmette.train.pairs import Pairs
from palmette.trajectory.cut import cut
from palmette.trajectory.layout import BLOCK_PAIRS, Layout, Part, lay_out
from palmette.trajectory.trie import NONE, build

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from palmette.train.samples import Sample

_BLOCK_WORTH = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One forward pass over rows B of N tokens (one row for a tree), and the edges E it is asked about.

    The logits at position `source_E` (row times N plus column) predict `target_E`. The pass serves the pairs `pair_M`
    of the step, each through its edge.
    """

    token_ids_BN: Tensor  # int64, 0 where padded
    position_BN: Tensor | None  # int64; None for 0, 1, 2 ...
    count_BN: Tensor  # int64, branches through the token; 0 where padded
    source_E: Tensor
    target_E: Tensor
    pair_M: Tensor
    edge_M: Tensor
    route_NLK: Tensor | None = None  # recorded experts of every token of all rows, -1 where not recorded
    parent: int = NONE  # pass that must run before and be kept until this one is done
    part: Part | None = None  # of a tree
    end_N: Tensor | None = None  # of a tree: one past each token's last descendant in the pass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """All forward passes of some samples, parents before children, and all their pairs."""

    passes: tuple[Pass, ...]
    pairs: Pairs
    layout: Layout | None = None  # of a tree


def flat(samples: Sequence[Sample], token_budget: int, device: torch.device | str = "cpu") -> Plan:
    """Plan every sample on its own row, padded on the right, up to `token_budget` padded tokens a pass."""
    first_S = np.cumsum([0, *(sample.num_sampled for sample in samples)])
    passes: list[Pass] = []
    for indices in batches(samples, token_budget):
        rows = [samples[i] for i in indices]
        longest = max(len(row.token_ids_T) for row in rows)
        token_ids_BN = np.zeros((len(rows), longest), np.int64)
        wanted_BN = np.zeros((len(rows), longest), bool)
        count_BN = np.zeros((len(rows), longest), np.int64)
        routes = _routes(rows)
        route_BNLK = np.full((len(rows), longest, *routes[0].shape[1:]), -1, np.int64) if routes else None
        for b, row in enumerate(rows):
            length = len(row.token_ids_T)
            token_ids_BN[b, :length] = row.token_ids_T
            wanted_BN[b, :length] = row.sampled_T
            count_BN[b, :length] = 1
            if route_BNLK is not None:
                route_BNLK[b, :length] = routes[b]
        places_E = np.flatnonzero(wanted_BN)
        pair_M = np.concatenate([np.arange(first_S[i], first_S[i + 1]) for i in indices])
        passes.append(
            Pass(
                token_ids_BN=torch.from_numpy(token_ids_BN).to(device),
                position_BN=None,
                count_BN=torch.from_numpy(count_BN).to(device),
                source_E=torch.from_numpy(places_E - 1).to(device),
                target_E=torch.from_numpy(token_ids_BN.reshape(-1)[places_E]).to(device),
                pair_M=torch.from_numpy(pair_M).to(device),
                edge_M=torch.arange(len(pair_M), device=device),
                route_NLK=None if route_BNLK is None else _merged(route_BNLK, device),
            )
        )
    return Plan(passes=tuple(passes), pairs=Pairs.of(samples, device))


def tree(
    samples: Sequence[Sample],
    token_budget: int,
    device: torch.device | str = "cpu",
    *,
    block_pairs: int = BLOCK_PAIRS,
) -> Plan:
    """Plan the tree of all samples, cut into parts of at most `token_budget` tokens; see `lay_out` for `block_pairs`.

    Tokens with different recorded routes are different tokens, also where their ids agree.
    """
    routes = _routes(samples)
    trie, parts = cut(build([sample.token_ids_T for sample in samples], also=routes or None), token_budget)
    layout = lay_out(trie, parts, block_pairs=block_pairs)
    route_NLK = None
    if routes:
        route_NLK = np.empty((len(layout.token_ids_N), *routes[0].shape[1:]), np.int64)
        route_NLK[layout.index_T] = np.concatenate(routes)
    sampled_T = np.concatenate([np.zeros(0, bool), *(np.asarray(sample.sampled_T, bool) for sample in samples)])
    token_M = layout.index_T[sampled_T]
    source_M = layout.source_N[token_M]
    order_M = np.argsort(source_M * len(layout.token_ids_N) + token_M, kind="stable")
    bounds = np.searchsorted(source_M[order_M], [part.start for part in layout.parts] + [len(layout.token_ids_N)])
    passes = [
        _part(layout, part, order_M[first:last], token_M, route_NLK, device)
        for part, first, last in zip(layout.parts, bounds[:-1], bounds[1:], strict=True)
    ]
    return Plan(passes=tuple(passes), pairs=Pairs.of(samples, device), layout=layout)


def plan(model: PreTrainedModel, samples: Sequence[Sample], token_budget: int, *, as_tree: bool = True) -> Plan:
    """Plan `samples` for `model`: as the tree they make, or each on its own row."""
    if not as_tree:
        return flat(samples, token_budget, model.device)
    return tree(samples, token_budget, model.device, block_pairs=block_pairs(model.config))


def block_pairs(config: Any) -> int:
    """Return how many attention pairs one more block is worth: its cost is fixed, a pair's grows with the width.

    Measured on a CPU: 8,192, 2,048 to 4,096 and 1,024 to 2,048 for heads times head size of 128, 384 and 1,024.
    """
    text = config.get_text_config()
    heads = text.num_attention_heads
    return max(_BLOCK_WORTH // (heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)), 1)


def batches(samples: Sequence[Sample], token_budget: int) -> list[list[int]]:
    """Split `samples` into lists of indices whose padded size (rows x longest) is at most `token_budget`.

    Samples are sorted by length so that little is padded; one that is longer than the budget is alone. Raises
    `ValueError` for a budget below one.
    """
    if token_budget < 1:
        raise ValueError("token_budget must be at least 1")
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].token_ids_T), i))
    out: list[list[int]] = []
    for index in order:
        longest = len(samples[index].token_ids_T)
        if out and (len(out[-1]) + 1) * longest <= token_budget:
            out[-1].append(index)
        else:
            out.append([index])
    return out


def _part(
    layout: Layout,
    part: Part,
    pair_M: np.ndarray,
    token_M: np.ndarray,
    route_NLK: np.ndarray | None,
    device: torch.device | str,
) -> Pass:
    """Return the pass of a part that serves `pair_M`, sorted by the edges they lie on; `token_M` is of all pairs."""
    token_E, edge_M = np.unique(token_M[pair_M], return_inverse=True)
    inside = slice(part.start, part.end)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return Pass(
        token_ids_BN=tensor(layout.token_ids_N[None, inside]),
        position_BN=tensor(layout.depth_N[None, inside]),
        count_BN=tensor(layout.count_N[None, inside]),
        source_E=tensor(layout.source_N[token_E] - part.start),
        target_E=tensor(layout.token_ids_N[token_E]),
        pair_M=tensor(pair_M),
        edge_M=tensor(edge_M),
        route_NLK=None if route_NLK is None else tensor(route_NLK[inside]),
        parent=part.parent,
        part=part,
        end_N=tensor(layout.end_N[inside]),
    )


def _routes(samples: Sequence[Sample]) -> list[np.ndarray]:
    """Return the recorded experts of every sample, -1 for one without; empty if none has any."""
    shapes = {sample.route_TLK.shape[1:] for sample in samples if sample.route_TLK is not None}
    if not shapes:
        return []
    if len(shapes) > 1:
        raise ValueError(f"samples carry routes of different shapes: {sorted(shapes)}")
    none = shapes.pop()
    return [
        np.full((len(sample.token_ids_T), *none), -1, np.int64)
        if sample.route_TLK is None
        else np.asarray(sample.route_TLK, np.int64)
        for sample in samples
    ]


def _merged(route_BNLK: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(route_BNLK.reshape(-1, *route_BNLK.shape[2:])).to(device)
