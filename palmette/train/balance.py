"""Splitting the samples of a step over workers so that they finish together and no tree is torn apart."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from palmette.trajectory.layout import lay_out
from palmette.trajectory.trie import build

if TYPE_CHECKING:
    from palmette.train.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a tree costs: `token` a unique token and `pair` a (query, key) pair; only their ratio matters."""

    token: float
    pair: float

    @classmethod
    def of(cls, config: Any, num_parameters: int) -> Cost:
        """Return the floating-point operations of a model: 2 a parameter and token, 4 a pair, head and layer width."""
        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(token=2.0 * num_parameters, pair=4.0 * text.num_hidden_layers * text.num_attention_heads * size)

    def tree(self, samples: Sequence[Sample]) -> float:
        """Return the cost of the tree that `samples` make."""
        layout = lay_out(build([sample.token_ids_T for sample in samples]))
        return self.token * len(layout.token_ids_N) + self.pair * layout.pairs


def split(samples: Sequence[Sample], groups: Sequence[Hashable], workers: int, cost: Cost) -> list[list[int]]:
    """Return for each worker the indices of its samples; samples of one group (a task, a tree) stay together.

    The dearest group goes first, each to the worker that has least so far (Graham 1969: at most 4/3 of the best
    possible time). Workers may stay empty. Raises `ValueError` below one worker.
    """
    if workers < 1:
        raise ValueError("there must be at least one worker")
    members: dict[Hashable, list[int]] = {}
    for index, group in zip(range(len(samples)), groups, strict=True):
        members.setdefault(group, []).append(index)
    costs = [(cost.tree([samples[i] for i in indices]), indices) for indices in members.values()]
    loads: list[tuple[float, int]] = [(0.0, worker) for worker in range(workers)]
    shares: list[list[int]] = [[] for _ in range(workers)]
    for dear, indices in sorted(costs, key=lambda entry: (-entry[0], entry[1])):
        load, worker = heapq.heappop(loads)
        shares[worker] += indices
        heapq.heappush(loads, (load + dear, worker))
    return [sorted(share) for share in shares]


def imbalance(costs: Sequence[float]) -> float:
    """Return how much longer the slowest worker takes than the mean, 0 when all are alike."""
    mean = float(np.mean(costs)) if len(costs) else 0.0
    return max(costs) / mean - 1 if mean else 0.0
