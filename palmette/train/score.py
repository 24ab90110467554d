"""Scoring samples with a model, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
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


def score_samples(
    model: PreTrainedModel, samples: Sequence[Sample], token_budget: int, *, tree: bool = True
) -> list[np.ndarray]:
    """Return `model`'s log-prob of each sampled token of each sample (float32 _T, 0 where given)."""
    plan = pack.plan(model, samples, token_budget, as_tree=tree)
    logprob_M = torch.zeros(len(plan.pairs))

    def keep(asked: Pass, answer: Answer) -> None:
        logprob_M[asked.pair_M.cpu()] = answer.logprob_E[asked.edge_M].float().cpu()

    look(model, plan, keep)
    scores: list[np.ndarray] = []
    for sample, found in zip(samples, logprob_M.split([s.num_sampled for s in samples]), strict=True):
        score_T = np.zeros(len(sample.token_ids_T), np.float32)
        score_T[np.asarray(sample.sampled_T, bool)] = found.numpy()
        scores.append(score_T)
    return scores
