"""What the tree-training benchmark compares: flat training and this project; peers are in `tree_training_peers`.

A method adds the gradient of a problem's loss to the parameters. Everything it needs for that, above all finding the
tree, counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from tree_training_workloads import CLIP_HIGH, CLIP_LOW, Problem

from palmette.train.policy import OnPolicyConfig, PolicyObjective
from palmette.train.sft import Likelihood
from palmette.train.step import gradients
from palmette.trajectory import trie
from palmette.trajectory.cut import cut
from palmette.trajectory.layout import Layout, lay_out

Step = Callable[[PreTrainedModel, Problem], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to add up the gradients of a problem; `find` is the part of `step` that finds the tree, for timing it."""

    name: str
    step: Step
    find: Callable[[Problem], Any] | None = None
    refuses: Callable[[Problem], str] = lambda _problem: ""
    missing: str = ""  # what to install, empty if nothing


def flat_methods() -> list[Method]:
    """Return the ways of training each branch on its own; the fastest of them is "flat"."""
    return [
        Method(name="flat, one by one", step=one_by_one),
        Method(name="flat, packed", step=packed),
        Method(name="flat, padded", step=padded),
    ]


def palmette(budget: int | None = None, *, recompute: bool = False) -> Method:
    """Return this project, in parts of `budget` tokens if given."""

    def step(model: PreTrainedModel, problem: Problem) -> None:
        tokens = problem.shape.n_tree if budget is None else budget
        _train(model, problem, tokens, tree=True, recompute=recompute)

    return Method(name="palmette", step=step, find=lambda problem: layout(problem, budget))


# Flat -----------------------------------------------------------------------------------------------------------------


def one_by_one(model: PreTrainedModel, problem: Problem) -> None:
    """Forward and backward one branch after the other."""
    with attention(model, "sdpa"):
        for number, tokens_T in enumerate(problem.sequences):
            place_T = np.arange(len(tokens_T))
            learn(model, problem, tokens_T, None, [place_T], first=number)


def packed(model: PreTrainedModel, problem: Problem, chunk: int = 2048) -> None:
    """Branches end to end in rows of up to `chunk` tokens, block-diagonal attention without a mask or padding."""
    for first, last in _chunks(problem, chunk):
        sequences = problem.sequences[first:last]
        ends = np.cumsum([len(tokens_T) for tokens_T in sequences])
        spans = [(int(end) - len(tokens_T), int(end)) for tokens_T, end in zip(sequences, ends, strict=True)]
        places = [np.arange(start, end) for start, end in spans]
        depth_N = np.concatenate([np.arange(end - start) for start, end in spans])
        with attention(model, "bench_packed"):
            learn(model, problem, np.concatenate(sequences), depth_N, places, first=first, spans=spans)


def padded(model: PreTrainedModel, problem: Problem) -> None:
    """Train flat with this project: batches of branches of like length, padded on the right."""
    longest = max(len(tokens_T) for tokens_T in problem.sequences)
    _train(model, problem, max(2048, longest), tree=False)


def _chunks(problem: Problem, chunk: int) -> Iterator[tuple[int, int]]:
    first = tokens = 0
    for number, tokens_T in enumerate(problem.sequences):
        if tokens and tokens + len(tokens_T) > chunk:
            yield first, number
            first, tokens = number, 0
        tokens += len(tokens_T)
    yield first, len(problem.sequences)


# This project ---------------------------------------------------------------------------------------------------------


def layout(problem: Problem, budget: int | None = None) -> Layout:
    """Find the tree of a problem and lay it out as a step does."""
    merged = trie.build(problem.sequences)
    return lay_out(*cut(merged, merged.num_unique if budget is None else budget))


def _train(model: PreTrainedModel, problem: Problem, budget: int, *, tree: bool, recompute: bool = False) -> None:
    policy = OnPolicyConfig(ratio="token", clip_low=CLIP_LOW, clip_high=CLIP_HIGH)
    objective = PolicyObjective(policy) if problem.clipped else Likelihood()
    gradients(model, problem.samples, objective, token_budget=budget, tree=tree, recompute=recompute)


# What they share ------------------------------------------------------------------------------------------------------


def learn(
    model: PreTrainedModel,
    problem: Problem,
    tokens_N: np.ndarray,
    depth_N: np.ndarray | None,
    places: Sequence[np.ndarray],
    *,
    first: int = 0,
    **named: Any,
) -> None:
    """Forward a row of tokens and backward the loss of the branches from `first` on, which lie at `places`."""
    masks = problem.sampled[first : first + len(places)]
    place_M = np.concatenate([place_T[mask] for place_T, mask in zip(places, masks, strict=True)])
    source_M = np.concatenate([place_T[:-1][mask[1:]] for place_T, mask in zip(places, masks, strict=True)])
    place_E, one_E, edge_M = np.unique(place_M, return_index=True, return_inverse=True)
    ids_N = torch.from_numpy(np.ascontiguousarray(tokens_N))
    position_1N = None if depth_N is None else torch.from_numpy(depth_N)[None]
    hidden_NH = body_of(model)(
        input_ids=ids_N[None], position_ids=position_1N, use_cache=False, **named
    ).last_hidden_state[0]
    logprob_E = logprobs(model, hidden_NH, torch.from_numpy(source_M[one_E]), ids_N[torch.from_numpy(place_E)])
    problem.loss(logprob_E[torch.from_numpy(edge_M)], int(problem.first[first])).backward()


def logprobs(model: PreTrainedModel, hidden_NH: Tensor, source_E: Tensor, target_E: Tensor) -> Tensor:
    """Return log p(target) at the sources; the head runs for these alone."""
    head: Any = model.get_output_embeddings()
    logits_EV = head(hidden_NH.index_select(0, source_E))
    wide = torch.promote_types(logits_EV.dtype, torch.float32)
    return -F.cross_entropy(logits_EV.to(wide), target_E, reduction="none")


def body_of(model: PreTrainedModel) -> Any:
    """Return the layers without the head."""
    return model.get_decoder()


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let the model use an attention function while entered."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend_packed(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, *, spans: Any, scaling: float, **_rest: Any
) -> tuple[Tensor, None]:
    blocks = [(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b]) for a, b in spans]
    named = {"is_causal": True, "scale": scaling, "enable_gqa": True}
    return torch.cat([F.scaled_dot_product_attention(*block, **named) for block in blocks], 2).transpose(1, 2), None


AttentionInterface.register("bench_packed", _attend_packed)
AttentionMaskInterface.register("bench_packed", lambda *_args, **_named: None)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return CPU and wall seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall
