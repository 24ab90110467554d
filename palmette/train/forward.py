"""The training forward pass: log-probs of the tokens a model is asked about.

This is the one place of training where the shift between logits and tokens happens: the logits at position t - 1
predict token t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palmette.train.samples import Batch, Sample, batches, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_logprobs(model: PreTrainedModel, batch: Batch, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return log p(token t | tokens before t) at every sampled token, 0 elsewhere, as ``logprob_BT`` in nats.

    The output head runs only on the positions that predict a sampled token, which is most of the memory of a model
    with a large vocabulary. Padding is on the right, so causal attention needs no mask. With `entropy` the second
    value is the summed entropy of those predictions in nats (no gradient).
    """
    wanted_BT = torch.zeros_like(batch.sampled_BT)
    wanted_BT[:, :-1] = batch.sampled_BT[:, 1:]  # position t - 1 is asked about token t
    targets_M = batch.token_ids_BT[:, 1:][batch.sampled_BT[:, 1:]]
    with _head_on(model, wanted_BT):
        logits_MV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
    logits_MV = logits_MV.reshape(-1, logits_MV.shape[-1])
    if logits_MV.dtype in (torch.float16, torch.bfloat16):
        logits_MV = logits_MV.float()
    picked_M = -F.cross_entropy(logits_MV, targets_M, reduction="none")
    logprob_BT = torch.zeros(batch.sampled_BT.shape, dtype=picked_M.dtype, device=picked_M.device)
    logprob_BT = logprob_BT.masked_scatter(batch.sampled_BT, picked_M)
    return logprob_BT, _entropy_sum(logits_MV) if entropy else None


@torch.no_grad()
def score_samples(model: PreTrainedModel, samples: Sequence[Sample], token_budget: int) -> list[np.ndarray]:
    """Return `model`'s log-prob of each sampled token of each sample (float32 _T, 0 where given), without gradients."""
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(samples)
    for indices in batches(samples, token_budget):
        batch = collate([samples[i] for i in indices], model.device)
        logprob_BT, _ = token_logprobs(model, batch)
        rows = logprob_BT.float().cpu().numpy()
        for row, index in zip(rows, indices, strict=True):
            scores[index] = row[: len(samples[index].token_ids_T)].copy()
    return scores


def recompute_old(model: PreTrainedModel, samples: Sequence[Sample], token_budget: int) -> list[Sample]:
    """Replace `old_logprob_T` by the training model's own, before it is updated (recompute estimator)."""
    scores = score_samples(model, samples, token_budget)
    return [replace(s, old_logprob_T=score_T) for s, score_T in zip(samples, scores, strict=True)]


@contextmanager
def _head_on(model: PreTrainedModel, wanted_BT: Tensor) -> Iterator[None]:
    """Let the output head see only the hidden states marked in `wanted_BT`, as one row (1, M, hidden).

    Models scale or cap logits element by element after the head, so this holds for any of them.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ValueError(f"{type(model).__name__} has no output head")

    def select(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][wanted_BT].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _entropy_sum(logits_MV: Tensor) -> Tensor:
    logp_MV = F.log_softmax(logits_MV, dim=-1)
    return -(logp_MV.exp() * logp_MV).sum()
