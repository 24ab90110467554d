"""Scoring samples with a model, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from palmette.train import pack
from palmette.train.forward import Answer
from palmette.train.pack import Pass
from palmette.train.partition import look
from palmette.train.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a model thinks of the sampled tokens of a sample and of others in their place; 0 where tokens were given."""

    logprob_T: np.ndarray  # float32, of the tokens themselves
    also_TK: np.ndarray  # float32, of the sample's `top_ids_TK`; without columns if it has none
    top_ids_TK: np.ndarray  # int32, the likeliest tokens


def score_samples(
    model: PreTrainedModel, samples: Sequence[Sample], token_budget: int, *, tree: bool = True
) -> list[np.ndarray]:
    """Return `model`'s log-prob of each sampled token of each sample (float32 _T, 0 where given)."""
    return [sight.logprob_T for sight in see(model, samples, token_budget, tree=tree)]


def see(
    model: PreTrainedModel, samples: Sequence[Sample], token_budget: int, *, tree: bool = True, top: int = 0
) -> list[Sight]:
    """Return what `model` thinks of each sample, with the `top` likeliest tokens of each place, in one pass of each."""
    plan = pack.plan(model, samples, token_budget, as_tree=tree)
    top = min(top, model.config.get_text_config().vocab_size)
    logprob_M = torch.zeros(len(plan.pairs))
    also_MK = torch.zeros(plan.pairs.top_ids_MK.shape)
    top_MK = torch.zeros(len(plan.pairs), top, dtype=torch.int32)

    def keep(asked: Pass, answer: Answer) -> None:
        pair_M, edge_M = asked.pair_M.cpu(), asked.edge_M
        logprob_M[pair_M] = answer.logprob_E[edge_M].float().cpu()
        if answer.also_EK is not None:
            also_MK[pair_M] = answer.also_EK[edge_M].float().cpu()
        if answer.top_EK is not None:
            top_MK[pair_M] = answer.top_EK[edge_M].int().cpu()

    look(model, plan, keep, top=top)
    sizes = [sample.num_sampled for sample in samples]
    parts = zip(samples, *(values.split(sizes) for values in (logprob_M, also_MK, top_MK)), strict=True)
    return [
        Sight(logprob_T=_aligned(s, own), also_TK=_aligned(s, others), top_ids_TK=_aligned(s, likely))
        for s, own, others, likely in parts
    ]


def _aligned(sample: Sample, values_M: torch.Tensor) -> np.ndarray:
    found_M = values_M.numpy()
    aligned_T = np.zeros((len(sample.token_ids_T), *found_M.shape[1:]), found_M.dtype)
    aligned_T[np.asarray(sample.sampled_T, bool)] = found_M
    return aligned_T
