"""The self-check: before a stage trains on trees, a small forest of its own samples is computed both ways."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palmette.train.samples import Sample
from palmette.train.step import Objective, gradients
from palmette.trajectory.trie import build

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of the gradient, relative; RMS norms count in fp32 anyway
_SHORT_TOLERANCE = 0.1  # of 16-bit formats: the flat gradient itself is no closer to the truth than a few percent
_SAMPLES = 4


def tree_error(model: PreTrainedModel, samples: Sequence[Sample], objective: Objective) -> float:
    """Return how far the gradient over the tree of a few `samples` is from the flat one, relative (L2).

    Takes the shortest sample and those that share most with it; the tree is cut in two, so that gateways take part.
    Gradients of the parameters must be empty, and are so again.
    """
    chosen = _small_forest(samples)
    flat = _gradient(model, chosen, objective, tree=False, token_budget=1)
    unique = build([sample.token_ids_T for sample in chosen]).num_unique
    tree = _gradient(model, chosen, objective, tree=True, token_budget=max(unique // 2, 1))
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(flat, tree, strict=True)) ** 0.5
    size = sum(float(a.double().square().sum()) for a in flat) ** 0.5
    return apart / size if size else apart


def tolerance(model: PreTrainedModel) -> float:
    """Return the largest error that is rounding."""
    return TOLERANCE.get(model.dtype, _SHORT_TOLERANCE)


def speed_up(model: PreTrainedModel, samples: Sequence[Sample], objective: Objective, token_budget: int) -> float:
    """Return how many times faster the gradient of `samples` is as a tree than sample by sample, each timed once."""
    seconds = []
    for tree in (False, True):
        start_s = time.perf_counter()
        _gradient(model, samples, objective, tree=tree, token_budget=token_budget)
        seconds.append(time.perf_counter() - start_s)
    return seconds[0] / max(seconds[1], 1e-9)


def _small_forest(samples: Sequence[Sample]) -> list[Sample]:
    shortest = min(samples, key=lambda sample: len(sample.token_ids_T))

    def shared(sample: Sample) -> int:
        length = len(shortest.token_ids_T)
        differs_T = sample.token_ids_T[:length] != shortest.token_ids_T
        return int(differs_T.argmax()) if differs_T.any() else length

    others = [sample for sample in samples if sample is not shortest]
    return [shortest, *sorted(others, key=lambda s: (-shared(s), len(s.token_ids_T)))[: _SAMPLES - 1]]


def _gradient(
    model: PreTrainedModel, samples: Sequence[Sample], objective: Objective, *, tree: bool, token_budget: int
) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients(model, samples, objective, token_budget=token_budget, tree=tree)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return found
