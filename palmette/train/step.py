"""One optimiser step: forward passes by token budget, one objective, one update."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from palmette.errors import UserError
from palmette.model.routing import Choices, counts, load_balancing_loss
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
    """From log-probs of some pairs (with gradient), the pairs, and the totals of the step, to a loss and metrics.

    The log-probs are `logprob_M` of the sampled tokens and, where pairs have `top_ids_MK`, `also_MK` of those.
    """

    @property
    def pointwise(self) -> bool:
        """Whether what a pair adds depends on no other pair's log-prob, so that any split of the pairs will do."""
        ...

    def __call__(self, logprob_M: Tensor, pairs: Pairs, totals: Totals, also_MK: Tensor | None = None) -> Terms:
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
    load_balance: float = 0.0,
    totals: Totals | None = None,
    entropy: bool = False,
) -> dict[str, float]:
    """Add the gradient of `objective` over `samples` to the parameters, and return its summed metrics.

    With `tree` the samples are computed as the tree they make, each shared prefix once, in parts of at most
    `token_budget` tokens; otherwise each on its own, padded, in batches of that size. Units of the losses are counted
    over all `samples` (or given as `totals`), so neither the way of computing, nor the split, nor the order changes the
    result. `load_balance` weighs the load-balancing loss of a mixture of experts, whose statistics are those of the
    whole step with every branch counted. The model must be in eval mode: dropout would make the ratio to the recorded
    log-probs meaningless.

    Where something must be known of all passes before the first backward pass (those statistics; ratios over turns or
    sequences, which may reach over several parts of a tree), there is one more pass without gradients before.
    """
    if model.training:
        raise ValueError("put the model in eval mode: training here is without dropout")
    totals = totals or Totals.of(samples)
    plan = pack.plan(model, samples, token_budget, as_tree=tree)
    sums: dict[str, float] = {}

    def add(metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)

    experts = _Experts(model, load_balance) if load_balance else None
    seeds = None
    if len(plan.passes) > 1 and (experts or (tree and not objective.pointwise)):
        logprobs = _look(model, plan, experts)
        if tree and not objective.pointwise:
            seeds, metrics = _seeds(logprobs, plan.pairs, objective, totals)
            add(metrics)

    def loss_of(asked: Pass, answer: Answer) -> Tensor:
        logprob_M = answer.logprob_E[asked.edge_M]
        also_MK = None if answer.also_EK is None else answer.also_EK[asked.edge_M]
        if answer.entropy_E is not None:
            add({"entropy": answer.entropy_E[asked.edge_M].sum() / max(totals.tokens, 1)})
        if seeds is not None:
            loss = (logprob_M * seeds[0][asked.pair_M]).sum()
            if also_MK is not None:
                loss = loss + (also_MK * seeds[1][asked.pair_M]).sum()
        else:
            loss, metrics = objective(logprob_M, plan.pairs.take(asked.pair_M), totals, also_MK)
            add({"loss": loss.detach(), **metrics})
        if experts is not None:
            balance = experts.loss(asked, answer)
            add({"load_balance": balance.detach() / load_balance})
            loss = loss + balance
        return loss

    backward(model, plan, loss_of, recompute=recompute, entropy=entropy, routers=experts is not None)
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
    load_balance: float = 0.0,
    entropy: bool = False,
) -> dict[str, float]:
    """Do one update on `samples`; return loss, metrics, grad_norm, lr, tokens (of all samples) and tokens_per_s."""
    start_s = time.perf_counter()
    sums = gradients(
        model,
        samples,
        objective,
        token_budget=token_budget,
        tree=tree,
        recompute=recompute,
        load_balance=load_balance,
        entropy=entropy,
    )
    update = optimiser.update()
    elapsed_s = max(time.perf_counter() - start_s, 1e-9)
    return {**sums, **update, "tokens_per_s": sums["tokens"] / elapsed_s}


class _Experts:
    """The load-balancing loss of a step, whose shares of experts are known before the first backward pass."""

    def __init__(self, model: PreTrainedModel, weight: float) -> None:
        self._weight = weight
        self._top_k = int(getattr(model.config.get_text_config(), "num_experts_per_tok", 0) or 0)
        if not self._top_k:
            raise UserError(f"{type(model).__name__} has no experts to balance: set train.load_balance = 0")
        self._step: Choices | None = None

    def count(self, asked: Pass, answer: Answer) -> None:
        """Add a pass to the step."""
        found = counts(answer.router_logits, asked.count_BN.flatten(), top_k=self._top_k)
        self._step = found if self._step is None else self._step + found

    def loss(self, asked: Pass, answer: Answer) -> Tensor:
        """Return a pass's share; one that was not counted is the whole step."""
        if self._step is None:
            self.count(asked, answer)
        assert self._step is not None
        return self._weight * load_balancing_loss(answer.router_logits, asked.count_BN.flatten(), self._step)


def _look(model: PreTrainedModel, plan: Plan, experts: _Experts | None) -> tuple[Tensor, ...]:
    """Return the log-probs _M, and those _MK of other targets, by passes without gradients; let `experts` count."""
    wide, pairs = torch.promote_types(model.dtype, torch.float32), plan.pairs
    logprobs = [torch.zeros(len(pairs), dtype=wide, device=model.device)]
    if pairs.top_ids_MK.shape[1]:
        logprobs.append(torch.zeros(pairs.top_ids_MK.shape, dtype=wide, device=model.device))

    def keep(asked: Pass, answer: Answer) -> None:
        for found, values in zip(logprobs, (answer.logprob_E, answer.also_EK), strict=False):
            assert values is not None
            found[asked.pair_M] = values[asked.edge_M]
        if experts is not None:
            experts.count(asked, answer)

    look(model, plan, keep, routers=experts is not None)
    return tuple(logprobs)


def _seeds(
    logprobs: tuple[Tensor, ...], pairs: Pairs, objective: Objective, totals: Totals
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return d loss / d log-probs and the metrics: what an objective over units that reach over parts comes to."""
    inputs = [values.requires_grad_() for values in logprobs]
    loss, metrics = objective(inputs[0], pairs, totals, *inputs[1:])
    seeds = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return seeds, {"loss": loss.detach(), **metrics}


def _shape(samples: Sequence[Sample], plan: Plan) -> dict[str, float]:
    """Return tokens of all samples, and of the tree its unique tokens and prefix overlap ratio."""
    tokens = sum(len(sample.token_ids_T) for sample in samples)
    if plan.layout is None:
        return {"tokens": float(tokens)}
    return {"tokens": float(tokens), "tree_tokens": float(len(plan.layout.token_ids_N)), "por": plan.layout.overlap}
