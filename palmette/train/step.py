"""One optimiser step: forward passes by token budget, one objective, one update."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from palmette.train import pack
from palmette.train.forward import Answer
from palmette.train.losses import Terms
from palmette.train.optim import Optimiser
from palmette.train.pack import Pass, Plan
from palmette.train.pairs import Pairs
from palmette.train.partition import backward, look
from palmette.train.samples import Sample, Totals

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Objective(Protocol):
    """From log-probs _M of some pairs (with gradient), the pairs, and the totals of the step, to a loss and metrics."""

    @property
    def pointwise(self) -> bool:
        """Whether what a pair adds depends on no other pair's log-prob, so that any split of the pairs will do."""
        ...

    def __call__(self, logprob_M: Tensor, pairs: Pairs, totals: Totals) -> Terms:
        """Return the loss of these pairs, and metrics that add up over calls."""
        ...


def gradients(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    objective: Objective,
    *,
    token_budget: int,
    tree: bool = True,
    recompute: bool = False,
    totals: Totals | None = None,
    entropy: bool = False,
) -> dict[str, float]:
    """Add the gradient of `objective` over `samples` to the parameters, and return its summed metrics.

    With `tree` the samples are computed as the tree they make, each shared prefix once, in parts of at most
    `token_budget` tokens; otherwise each on its own, padded, in batches of that size. Units of the losses are counted
    over all `samples` (or given as `totals`), so neither the way of computing, nor the split, nor the order changes the
    result. The model must be in eval mode: dropout would make the ratio to the recorded log-probs meaningless.
    """
    if model.training:
        raise ValueError("put the model in eval mode: training here is without dropout")
    totals = totals or Totals.of(samples)
    plan = (pack.tree if tree else pack.flat)(samples, token_budget, model.device)
    sums: dict[str, float] = {}

    def add(metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)

    whole = None
    if tree and len(plan.passes) > 1 and not objective.pointwise:
        whole = _leaf_gradient(model, plan, objective, totals, add)

    def loss_of(asked: Pass, answer: Answer) -> Tensor:
        logprob_M = answer.logprob_E[asked.edge_M]
        if answer.entropy_E is not None:
            add({"entropy": answer.entropy_E[asked.edge_M].sum() / max(totals.tokens, 1)})
        if whole is not None:
            return (logprob_M * whole[asked.pair_M]).sum()
        loss, metrics = objective(logprob_M, plan.pairs.take(asked.pair_M), totals)
        add({"loss": loss.detach(), **metrics})
        return loss

    backward(model, plan, loss_of, recompute=recompute, entropy=entropy)
    return {**sums, **_shape(samples, plan)}


def train_step(
    model: PreTrainedModel,
    optimiser: Optimiser,
    samples: Sequence[Sample],
    objective: Objective,
    *,
    token_budget: int,
    tree: bool = True,
    recompute: bool = False,
    entropy: bool = False,
) -> dict[str, float]:
    """Do one update on `samples`; return loss, metrics, grad_norm, lr, tokens (of all samples) and tokens_per_s."""
    start_s = time.perf_counter()
    sums = gradients(
        model, samples, objective, token_budget=token_budget, tree=tree, recompute=recompute, entropy=entropy
    )
    update = optimiser.update()
    elapsed_s = max(time.perf_counter() - start_s, 1e-9)
    return {**sums, **update, "tokens_per_s": sums["tokens"] / elapsed_s}


def _leaf_gradient(
    model: PreTrainedModel, plan: Plan, objective: Objective, totals: Totals, add: Callable[[dict[str, Tensor]], None]
) -> Tensor:
    """Return d loss / d logprob _M, from a forward pass over everything: units may reach over several parts."""
    logprob_M = torch.zeros(len(plan.pairs), dtype=model.dtype if model.dtype == torch.float64 else torch.float32)
    logprob_M = logprob_M.to(model.device)

    def keep(asked: Pass, answer: Answer) -> None:
        logprob_M[asked.pair_M] = answer.logprob_E[asked.edge_M]

    look(model, plan, keep)
    logprob_M.requires_grad_()
    loss, metrics = objective(logprob_M, plan.pairs, totals)
    add({"loss": loss.detach(), **metrics})
    return torch.autograd.grad(loss, logprob_M)[0]


def _shape(samples: Sequence[Sample], plan: Plan) -> dict[str, float]:
    """Return tokens of all samples, and of the tree its unique tokens and prefix overlap ratio."""
    tokens = sum(len(sample.token_ids_T) for sample in samples)
    if plan.layout is None:
        return {"tokens": float(tokens)}
    return {"tokens": float(tokens), "tree_tokens": float(len(plan.layout.token_ids_N)), "por": plan.layout.overlap}
