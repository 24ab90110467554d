"""The losses as pure functions of (branch, token) pairs.

All log-probs are natural logs _M aligned to the pairs. Every loss is a sum divided by a count of the *whole* optimiser
step (`Totals`), and so is every metric: the values of partial batches simply add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palmette.train.pairs import Pairs
from palmette.train.samples import Totals

Ratio = Literal["token", "turn", "sequence"]
Exponent = Literal["product", "geometric_mean"]
Mean = Literal["units", "sample"]
Gate = Literal["none", "tis", "icepop"]
_LOG_RATIO = 20.0  # of either sign: beyond, ratios are all alike and their products overflow
Terms = tuple[Tensor, dict[str, Tensor]]  # a scalar loss, and metrics that add up over micro-batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Clip range of a ratio: [1 - low, 1 + high], and what it counts at most where the advantage is negative."""

    low: float
    high: float
    cap: float = math.inf


def nll(logprob_M: Tensor, totals: Totals) -> Terms:
    """Mean negative log-likelihood of the sampled tokens, in nats a token."""
    loss = -logprob_M.sum() / max(totals.tokens, 1)
    return loss, {"nll": loss.detach()}


def policy_gradient(
    logprob_M: Tensor,
    pairs: Pairs,
    totals: Totals,
    *,
    ratio: Ratio,
    exponent: Exponent,
    clip: Clip,
    mean: Mean = "units",
    gate_M: Tensor | None = None,
) -> Terms:
    """Clipped policy gradient whose ratio is taken over a token, a turn, or a whole sequence.

    A unit u of m tokens has log r_u = sum_{t in u} (log pi - log pi_old) / (1 if product else m), and its objective is
    the mean over its tokens of min(r A_t, clip(r) A_t). Where A is constant over a unit this is exactly
    min(r_u A_u, clip(r_u) A_u) in value and gradient (KAT-Coder-V2 section 3.3.1 with product and turn; GSPO,
    arXiv 2507.18071 eq. 5 with geometric_mean and sequence; DAPO, arXiv 2503.14476 eq. 8 with token); where it differs
    from token to token it is GSPO-token (eq. 13 there). Where A is negative only `clip.cap` bounds r from above (dual
    clip, arXiv 1912.09729). `mean` = "units" averages over all units of the step; "sample" first over the units of a
    sequence (KAT's 1/N). `gate_M` multiplies each pair's term, without gradient. All pairs of a unit must be here.
    """
    size_M = _sizes(pairs, ratio).to(logprob_M.dtype)
    log_ratio_M = logprob_M - pairs.old_logprob_M.to(logprob_M.dtype)
    total_M = _unit_sum(log_ratio_M.detach(), pairs, ratio)
    scale_M = size_M if exponent == "product" else torch.ones_like(size_M)
    # The value is the unit's ratio; the gradient of a token flows through its own log-prob only.
    log_r_M = total_M * scale_M / size_M + scale_M * (log_ratio_M - log_ratio_M.detach())
    r_M = log_r_M.clamp(-_LOG_RATIO, _LOG_RATIO).exp()
    clipped_M = r_M.clamp(1 - clip.low, 1 + clip.high)
    advantage_M = pairs.advantage_M.to(logprob_M.dtype)
    objective_M = torch.minimum(r_M * advantage_M, clipped_M * advantage_M)
    if math.isfinite(clip.cap):
        objective_M = torch.where(advantage_M < 0, torch.maximum(objective_M, clip.cap * advantage_M), objective_M)
    if gate_M is not None:
        objective_M = objective_M * gate_M.detach()
    weight_M = _weights(pairs, size_M, ratio, mean, totals)
    loss = -(objective_M * weight_M).sum()
    with torch.no_grad():
        cut_M = torch.where(advantage_M > 0, r_M > 1 + clip.high, r_M < 1 - clip.low) & (advantage_M != 0)
        delta_M = log_ratio_M.detach()
        metrics = {
            "policy_loss": loss.detach(),
            "clipped": (cut_M * weight_M).sum(),
            "ratio_mean": (r_M * weight_M).sum(),
            "ratio_var": ((r_M - 1) ** 2 * weight_M).sum(),  # around 1, where it is when nothing has moved
            "kl": (torch.expm1(delta_M) - delta_M).sum() / max(totals.tokens, 1),  # KL(old, new), k3
        }
    return loss, metrics


def kl_to_reference(logprob_M: Tensor, reference_M: Tensor, totals: Totals) -> Terms:
    """KL(pi, reference) by the k3 estimator exp(d) - d - 1 with d = log ref - log pi (Schulman 2020), nats a token."""
    delta_M = reference_M - logprob_M
    loss = (torch.expm1(delta_M) - delta_M).sum() / max(totals.tokens, 1)
    return loss, {"reference_kl": loss.detach()}


def reverse_kl(also_MK: Tensor, teacher_MK: Tensor, weight_M: Tensor, totals: Totals) -> Terms:
    """Weighted mean over sampled tokens of KL(student, teacher) over K likely tokens and one for all others, in nats.

    `also_MK` are the student's log-probs of those tokens, with gradient, `teacher_MK` the teacher's (top-k form of
    on-policy distillation, KAT-V2.5 and verl; the rest as one alternative makes it a divergence: never negative, 0 for
    equal models).
    """
    teacher_MK = teacher_MK.to(also_MK.dtype)
    rest_M, teacher_rest_M = (_rest(values_MK) for values_MK in (also_MK, teacher_MK))
    kl_M = (also_MK.exp() * (also_MK - teacher_MK)).sum(-1) + rest_M.exp() * (rest_M - teacher_rest_M)
    loss = (kl_M * weight_M).sum() / max(totals.tokens, 1)
    return loss, {"teacher_top_kl": kl_M.detach().sum() / max(totals.tokens, 1), "distil_loss": loss.detach()}


def _rest(logprob_MK: Tensor) -> Tensor:
    """Return the log-prob of everything else, not below that of rounding."""
    least = torch.finfo(logprob_MK.dtype).eps
    return torch.log1p(-logprob_MK.exp().sum(-1).clamp(max=1 - least))


def distillation_advantage(
    student_logprob_M: Tensor, teacher_logprob_M: Tensor, *, weight: float, limit: float
) -> Tensor:
    """Per-token advantage -lambda (log pi_student - log pi_teacher), each difference clipped to +-`limit` nats.

    The policy-gradient form of reverse-KL distillation (agentic_rl_field 7.1; added to the RL advantage it is the
    joint objective of THUDM/slime's `--use-opd`). Carries no gradient.
    """
    return -weight * (student_logprob_M - teacher_logprob_M).detach().clamp(-limit, limit)


def gate_weights(
    mismatch_M: Tensor,
    pairs: Pairs,
    *,
    gate: Gate,
    unit: Ratio = "token",
    cap: float = 2.0,
    alpha: float = 0.5,
    beta: float = 5.0,
) -> Tensor | None:
    """Weight of each pair against log k = log pi_train(theta_old) - log pi_behaviour, or None for gate "none".

    "tis" truncates k at `cap`; "icepop" keeps k within [`alpha`, `beta`] and drops what lies outside (IcePop,
    arXiv 2510.18855; KAT-Coder-V2 section 3.3.3). How a gate on tokens enters a ratio over turns is open there:
    with `unit` = "token" each token has a k and a weight of its own; with "turn" or "sequence" k is the geometric mean
    over the unit, which is weighed or dropped as one. No gradient.
    """
    if gate == "none":
        return None
    log_k_M = _unit_sum(mismatch_M.detach(), pairs, unit) / _sizes(pairs, unit).to(mismatch_M.dtype)
    k_M = log_k_M.exp()
    if gate == "tis":
        return k_M.clamp(max=cap)
    return torch.where((k_M >= alpha) & (k_M <= beta), k_M, torch.zeros_like(k_M))


def _sizes(pairs: Pairs, ratio: Ratio) -> Tensor:
    """Return how many pairs the unit of each pair has."""
    return {"token": torch.ones_like(pairs.turn_size_M), "turn": pairs.turn_size_M, "sequence": pairs.sample_size_M}[
        ratio
    ]


def _unit_sum(value_M: Tensor, pairs: Pairs, ratio: Ratio) -> Tensor:
    """Give every pair the sum of `value_M` over its unit."""
    if ratio == "token" or not len(pairs):
        return value_M
    unit_M = pairs.turn_M if ratio == "turn" else pairs.sample_M
    sums_U = torch.zeros(int(unit_M.max()) + 1, dtype=value_M.dtype, device=value_M.device)
    return sums_U.index_add(0, unit_M, value_M)[unit_M]


def _weights(pairs: Pairs, size_M: Tensor, ratio: Ratio, mean: Mean, totals: Totals) -> Tensor:
    """Weight of each pair: its share of its unit, and the unit's share of the step. They sum to 1 over the step."""
    if mean == "sample":
        units_M = {"token": pairs.sample_size_M, "turn": pairs.sample_turns_M, "sequence": torch.ones_like(size_M)}
        return 1 / (size_M * units_M[ratio] * max(totals.samples, 1))
    count = {"token": totals.tokens, "turn": totals.turns, "sequence": totals.samples}[ratio]
    return 1 / (size_M * max(count, 1))
