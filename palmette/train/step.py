"""One optimiser step: micro-batches by token budget, one objective, one update."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from palmette.train.forward import token_logprobs
from palmette.train.losses import Terms
from palmette.train.optim import Optimiser
from palmette.train.samples import Batch, Sample, Totals, batches, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Objective = Callable[[Tensor, Batch, Totals], Terms]
"""From log-probs _B_T (with gradient), the batch, and the totals of the step, to a loss and metrics that add up."""


def gradients(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    objective: Objective,
    *,
    token_budget: int,
    totals: Totals | None = None,
    entropy: bool = False,
) -> dict[str, float]:
    """Add the gradient of `objective` over `samples` to the parameters, and return its summed metrics.

    Units of the losses are counted over all `samples` (or given as `totals`), so neither the split into micro-batches,
    nor padding, nor the order changes the result. The model must be in eval mode: dropout would make the ratio to the
    recorded log-probs meaningless.
    """
    if model.training:
        raise ValueError("put the model in eval mode: training here is without dropout")
    totals = totals or Totals.of(samples)
    sums: dict[str, float] = {}
    for indices in batches(samples, token_budget):
        batch = collate([samples[i] for i in indices], model.device)
        logprob_BT, entropy_sum = token_logprobs(model, batch, entropy=entropy)
        loss, metrics = objective(logprob_BT, batch, totals)
        loss.backward()
        metrics = {"loss": loss.detach(), **metrics}
        if entropy_sum is not None:
            metrics["entropy"] = entropy_sum / max(totals.tokens, 1)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def train_step(
    model: PreTrainedModel,
    optimiser: Optimiser,
    samples: Sequence[Sample],
    objective: Objective,
    *,
    token_budget: int,
    entropy: bool = False,
) -> dict[str, float]:
    """Do one update on `samples`; return loss, metrics, grad_norm, lr, tokens (without padding) and tokens_per_s."""
    start_s = time.perf_counter()
    sums = gradients(model, samples, objective, token_budget=token_budget, entropy=entropy)
    update = optimiser.update()
    tokens = sum(len(s.token_ids_T) for s in samples)
    elapsed_s = max(time.perf_counter() - start_s, 1e-9)
    return {**sums, **update, "tokens": float(tokens), "tokens_per_s": tokens / elapsed_s}
