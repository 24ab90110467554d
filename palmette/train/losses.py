"""The losses as pure functions of aligned tensors.

All log-probs are natural logs _B_T aligned to the tokens (0 where a token was given). Every loss is a sum divided by a
count of the *whole* optimiser step (`Totals`), and so is every metric: the values of micro-batches simply add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palmette.train.samples import Totals

Ratio = Literal["token", "turn", "sequence"]
Exponent = Literal["product", "geometric_mean"]
Mean = Literal["units", "sample"]
Gate = Literal["none", "tis", "icepop"]
Terms = tuple[Tensor, dict[str, Tensor]]  # a scalar loss, and metrics that add up over micro-batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Clip range of a ratio: [1 - low, 1 + high]."""

    low: float
    high: float


def nll(logprob_BT: Tensor, sampled_BT: Tensor, totals: Totals) -> Terms:
    """Mean negative log-likelihood of the sampled tokens, in nats a token."""
    loss = -(logprob_BT * sampled_BT).sum() / max(totals.tokens, 1)
    return loss, {"nll": loss.detach()}


def policy_gradient(
    logprob_BT: Tensor,
    old_logprob_BT: Tensor,
    advantage_BT: Tensor,
    turn_BT: Tensor,
    totals: Totals,
    *,
    ratio: Ratio,
    exponent: Exponent,
    clip: Clip,
    mean: Mean = "units",
    gate_BT: Tensor | None = None,
) -> Terms:
    """Clipped policy gradient whose ratio is taken over a token, a turn, or a whole sequence.

    A unit u of m tokens has log r_u = sum_{t in u} (log pi - log pi_old) / (1 if product else m), and its objective is
    the mean over its tokens of min(r A_t, clip(r) A_t). Where A is constant over a unit this is exactly
    min(r_u A_u, clip(r_u) A_u) in value and gradient (KAT-Coder-V2 section 3.3.1 with product and turn; GSPO,
    arXiv 2507.18071 eq. 5 with geometric_mean and sequence; DAPO, arXiv 2503.14476 eq. 8 with token); where it differs
    from token to token it is GSPO-token (eq. 13 there). `mean` = "units" averages over all units of the step;
    "sample" first over the units of a sequence (KAT's 1/N). `gate_BT` multiplies each token's term and carries no
    gradient. `turn_BT` is the number of the turn a token belongs to, -1 where it was given.
    """
    sampled_BT = turn_BT >= 0
    unit_BT = _unit_index(turn_BT, ratio)
    log_ratio_BT = torch.where(sampled_BT, logprob_BT - old_logprob_BT, torch.zeros_like(logprob_BT))
    size_BT = _unit_sum(sampled_BT.to(logprob_BT.dtype), unit_BT).clamp(min=1)
    total_BT = _unit_sum(log_ratio_BT.detach(), unit_BT)
    scale_BT = size_BT if exponent == "product" else torch.ones_like(size_BT)
    # The value is the unit's ratio; the gradient of token t flows through its own log-prob only.
    log_r_BT = total_BT * scale_BT / size_BT + scale_BT * (log_ratio_BT - log_ratio_BT.detach())
    r_BT = log_r_BT.exp()
    clipped_BT = r_BT.clamp(1 - clip.low, 1 + clip.high)
    advantage_BT = advantage_BT.to(logprob_BT.dtype)
    objective_BT = torch.minimum(r_BT * advantage_BT, clipped_BT * advantage_BT)
    if gate_BT is not None:
        objective_BT = objective_BT * gate_BT.detach()
    weight_BT = _weights(unit_BT, size_BT, sampled_BT, ratio, mean, totals)
    loss = -(objective_BT * weight_BT).sum()
    with torch.no_grad():
        cut_BT = torch.where(advantage_BT > 0, r_BT > 1 + clip.high, r_BT < 1 - clip.low) & (advantage_BT != 0)
        delta_BT = log_ratio_BT.detach()
        metrics = {
            "policy_loss": loss.detach(),
            "clipped": (cut_BT * weight_BT).sum(),
            "ratio_mean": (r_BT * weight_BT).sum(),
            "kl": (torch.expm1(delta_BT) - delta_BT).sum() / max(totals.tokens, 1),  # KL(old, new), k3
        }
    return loss, metrics


def kl_to_reference(logprob_BT: Tensor, reference_BT: Tensor, sampled_BT: Tensor, totals: Totals) -> Terms:
    """KL(pi, reference) by the k3 estimator exp(d) - d - 1 with d = log ref - log pi (Schulman 2020), nats a token."""
    delta_BT = torch.where(sampled_BT, reference_BT - logprob_BT, torch.zeros_like(logprob_BT))
    loss = (torch.expm1(delta_BT) - delta_BT).sum() / max(totals.tokens, 1)
    return loss, {"reference_kl": loss.detach()}


def distillation_advantage(
    student_logprob_BT: Tensor, teacher_logprob_BT: Tensor, sampled_BT: Tensor, *, weight: float, limit: float
) -> Tensor:
    """Per-token advantage -lambda (log pi_student - log pi_teacher), each difference clipped to +-`limit` nats.

    The policy-gradient form of reverse-KL distillation (agentic_rl_field 7.1; added to the RL advantage it is the
    joint objective of THUDM/slime's `--use-opd`). Carries no gradient; 0 where a token was given.
    """
    gap_BT = (student_logprob_BT - teacher_logprob_BT).detach().clamp(-limit, limit)
    return torch.where(sampled_BT, -weight * gap_BT, torch.zeros_like(gap_BT))


def gate_weights(
    train_logprob_BT: Tensor,
    behaviour_logprob_BT: Tensor,
    *,
    gate: Gate,
    cap: float = 2.0,
    alpha: float = 0.5,
    beta: float = 5.0,
) -> Tensor | None:
    """Weights for the mismatch k = pi_train(theta_old) / pi_behaviour of each token, or None for gate "none".

    "tis" truncates k at `cap`; "icepop" keeps k within [`alpha`, `beta`] and drops the token outside (IcePop,
    KAT-Coder-V2 section 3.3.3). No gradient.
    """
    if gate == "none":
        return None
    k_BT = (train_logprob_BT - behaviour_logprob_BT).detach().exp()
    if gate == "tis":
        return k_BT.clamp(max=cap)
    return torch.where((k_BT >= alpha) & (k_BT <= beta), k_BT, torch.zeros_like(k_BT))


def _unit_index(turn_BT: Tensor, ratio: Ratio) -> Tensor:
    """Number the units of each row from 1; column 0 collects what was given."""
    sampled_BT = turn_BT >= 0
    if ratio == "token":
        return sampled_BT * torch.arange(1, turn_BT.shape[1] + 1, device=turn_BT.device)
    return turn_BT + 1 if ratio == "turn" else sampled_BT.long()


def _unit_sum(value_BT: Tensor, unit_BT: Tensor) -> Tensor:
    """Give every token the sum of `value_BT` over its unit."""
    width = int(unit_BT.max().item()) + 1
    sums = torch.zeros(value_BT.shape[0], width, dtype=value_BT.dtype, device=value_BT.device)
    return sums.scatter_add(1, unit_BT, value_BT).gather(1, unit_BT)


def _weights(unit_BT: Tensor, size_BT: Tensor, sampled_BT: Tensor, ratio: Ratio, mean: Mean, totals: Totals) -> Tensor:
    """Weight of each token: its share of its unit, and the unit's share of the step. They sum to 1 over the step."""
    share_BT = sampled_BT / size_BT
    if mean == "sample":
        units_B1 = share_BT.sum(1, keepdim=True).clamp(min=1)
        return share_BT / units_B1 / max(totals.samples, 1)
    count = {"token": totals.tokens, "turn": totals.turns, "sequence": totals.samples}[ratio]
    return share_BT / max(count, 1)
