"""Opinions about K alternatives, and how they are fused: subjective logic on Dirichlet evidence.

Evidence e_K >= 0 counts what speaks for each alternative; its opinion has belief b_K = e_K / S and uncertainty
u = K / S with S = K + sum(e_K), so that u + sum(b_K) = 1 (T2MAC, arXiv 2401.10973, Eq. 1-2; Jøsang, *Subjective
Logic*, 2016). Everything here is a pure function of tensors whose last axis is the alternatives; leading axes
broadcast.

Dempster's reduced rule on such opinions has a closed form: 1 + e_k/K = prod_j (1 + e_jk/K), so that with
l = log1p(e/K) fusion is a sum, gates and all. `fuse` uses it; `fuse_pair` is the rule as it is printed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LOG_LIMIT = 80.0  # fused log-evidence saturates here: K exp(80) still fits float32, for any K that fits in memory


def opinion(evidence_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return (belief_K, uncertainty_1) of evidence; the last axis of the uncertainty has length 1 (T2MAC Eq. 1-2)."""
    strength_1 = evidence_K.shape[-1] + evidence_K.sum(-1, keepdim=True)
    return evidence_K / strength_1, evidence_K.shape[-1] / strength_1


def uncertainty(evidence_K: Tensor) -> Tensor:
    """Return u = K / (K + sum e), without the last axis."""
    size = evidence_K.shape[-1]
    return size / (size + evidence_K.sum(-1))


def evidence_of(belief_K: Tensor, uncertainty_1: Tensor) -> Tensor:
    """Return the evidence of an opinion, e = b K / u: the inverse of `opinion` (T2MAC Eq. 8). Infinite where u = 0."""
    return belief_K * belief_K.shape[-1] / uncertainty_1


def fuse_pair(
    belief_K: Tensor, uncertainty_1: Tensor, other_belief_K: Tensor, other_uncertainty_1: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the (belief_K, uncertainty_1) of two opinions by the reduced Dempster rule (T2MAC Eq. 5-7).

    1 - C, the share that does not conflict, is summed from its positive parts, so nothing cancels when two confident
    opinions disagree.
    """
    both_K = belief_K * other_belief_K + belief_K * other_uncertainty_1 + other_belief_K * uncertainty_1
    neither_1 = uncertainty_1 * other_uncertainty_1
    agreement_1 = both_K.sum(-1, keepdim=True) + neither_1
    return both_K / agreement_1, neither_1 / agreement_1


def fuse_one_by_one(evidence_JK: Tensor, gate_J: Tensor | None = None) -> Tensor:
    """Return the evidence_K of `evidence_JK`, fused opinion after opinion with `fuse_pair`: slow, the oracle of `fuse`.

    `gate_J` opens (1) or closes (0) each source: a closed one is the vacuous opinion.
    """
    gated_JK = evidence_JK if gate_J is None else evidence_JK * gate_J[..., None]
    fused = opinion(torch.zeros_like(gated_JK[..., 0, :]))
    for evidence_K in gated_JK.unbind(-2):
        fused = fuse_pair(*fused, *opinion(evidence_K))
    return evidence_of(*fused)


def log_evidence(evidence_K: Tensor) -> Tensor:
    """Return l_K = log1p(e_K / K), in which Dempster fusion is addition; 0 is the vacuous opinion."""
    return torch.log1p(evidence_K / evidence_K.shape[-1])


def from_log_evidence(log_evidence_K: Tensor) -> Tensor:
    """Return e_K = K expm1(l_K), the inverse of `log_evidence`; saturates at `LOG_LIMIT` instead of overflowing."""
    return log_evidence_K.shape[-1] * torch.expm1(log_evidence_K.clamp(max=LOG_LIMIT))


def fuse(evidence_JK: Tensor, gate_J: Tensor | None = None) -> Tensor:
    """Return the evidence_K that J sources have together by Dempster's reduced rule, in closed form.

    1 + e_k/K = prod_j (1 + e_jk/K)^g_j: order-free, differentiable, no loop. The vacuous opinion and a closed gate are
    neutral, and uncertainty never rises. Evidence grows geometrically with agreeing sources; see `LOG_LIMIT`.
    """
    return from_log_evidence(_gated_sum(log_evidence(evidence_JK), gate_J))


def fuse_cumulative(evidence_JK: Tensor, gate_J: Tensor | None = None) -> Tensor:
    """Return the sum of the open sources' evidence_K: independent observations (Jøsang 2016, cumulative fusion)."""
    return _gated_sum(evidence_JK, gate_J)


def fuse_averaging(evidence_JK: Tensor, gate_J: Tensor | None = None) -> Tensor:
    """Return the mean of the open sources' evidence_K: dependent observations (Jøsang 2016, averaging fusion).

    Vacuous when no source is open. Repeating a source changes nothing, unlike in the other rules.
    """
    if gate_J is None:
        return evidence_JK.mean(-2)
    return _gated_sum(evidence_JK, gate_J) / gate_J.sum(-1)[..., None].clamp(min=1.0)


def discount(evidence_K: Tensor, trust: Tensor) -> Tensor:
    """Return the evidence_K of an opinion whose source is trusted only so far, `trust` in 0..1 without the last axis.

    Trust scales the belief and gives the rest to uncertainty: b' = t b, u' = 1 - t (1 - u) (Jøsang 2016, trust
    discounting), which in evidence is e' = K t e / (K + (1 - t) sum e). Trust 1 changes nothing, trust 0 leaves the
    vacuous opinion, and under trust t < 1 no source, however confident, moves uncertainty below 1 - t.
    """
    size, trust_1 = evidence_K.shape[-1], trust[..., None]
    return size * trust_1 * evidence_K / (size + (1 - trust_1) * evidence_K.sum(-1, keepdim=True))


def fuse_discounted(evidence_JK: Tensor, trust_J: Tensor) -> Tensor:
    """Return the evidence_K of J sources by Dempster's rule, each discounted by the trust in it, 0..1."""
    return fuse(discount(evidence_JK, trust_J))


def uncertainty_reduction(own_K: Tensor, message_K: Tensor) -> Tensor:
    """Return v = u - u', by how much a message lowers the receiver's uncertainty under Dempster's rule (T2MAC Eq. 3).

    Never negative, whatever the message says: it measures confidence, not correctness. Broadcasts; no last axis.
    """
    size = own_K.shape[-1]
    added = (message_K + own_K * message_K / size).sum(-1)  # what fusing adds to the strength, without subtracting
    strength = size + own_K.sum(-1)
    return size * added / (strength * (strength + added))


def fuse_links(own_NK: Tensor, sent_NNK: Tensor, gate_NN: Tensor, reading: str = "all") -> Tensor:
    """Return what every agent believes after the open messages, evidence_NK.

    `sent_NNK[i, j]` is the evidence that i sends to j and `gate_NN[i, j]` whether it arrives (0..1, differentiable).
    The paper leaves two readings open. ``all``: the receiver's own opinion takes part in Dempster's rule, as in the
    paper's value of a link (Eq. 3). ``received``: messages are fused among themselves and their evidence is added to
    the receiver's (Eq. 9 taken literally); they differ by the cross terms own x received / K.
    """
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}; one of {', '.join(READINGS)}")
    received_NK = torch.einsum("...ijk,...ij->...jk", log_evidence(sent_NNK), gate_NN)
    if reading == "received":
        return own_NK + from_log_evidence(received_NK)
    return from_log_evidence(log_evidence(own_NK) + received_NK)


READINGS = ("all", "received")
FUSIONS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "dempster": fuse,
    "cumulative": fuse_cumulative,
    "averaging": fuse_averaging,
}


def _gated_sum(values_JK: Tensor, gate_J: Tensor | None) -> Tensor:
    return values_JK.sum(-2) if gate_J is None else (values_JK * gate_J[..., None]).sum(-2)
