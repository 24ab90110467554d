"""Drawing the next token of every row at once, from noise that depends on the row's own seed and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How each of R rows is sampled: arrays of length R."""

    temperature_R: np.ndarray  # float64; 0 is greedy
    top_p_R: np.ndarray  # float64
    top_k_R: np.ndarray  # int64; 0 is off
    seed_R: np.ndarray  # uint64


def draw(logits_RV: torch.Tensor, draws: Draws, count_R: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the drawn ids_R and their log-probs_R at temperature 1 without truncation (float32).

    `count_R` is how many tokens each row has sampled before: row r's noise is a function of (seed_R[r], count_R[r]),
    so a seed gives the same tokens whatever else is in the batch. Logits are float32. Temperature comes before top-k,
    top-k before top-p.
    """
    logprobs_RV = torch.log_softmax(logits_RV, dim=-1)
    greedy_R = draws.temperature_R == 0
    if greedy_R.all():
        ids_R = logits_RV.argmax(dim=-1)
    else:
        ids_R = _inverse_cdf(_probabilities(logprobs_RV, draws), uniforms(draws.seed_R, count_R))
        if greedy_R.any():
            ids_R = torch.where(torch.from_numpy(greedy_R).to(ids_R.device), logits_RV.argmax(dim=-1), ids_R)
    return ids_R, logprobs_RV.gather(1, ids_R[:, None])[:, 0]


def uniforms(seed_R: np.ndarray, count_R: np.ndarray) -> np.ndarray:
    """Return one number of [0, 1) a row: SplitMix64 (Steele et al. 2014) of the seed, at position count."""
    bits_R = _mix(_mix(seed_R.astype(np.uint64)) + (count_R.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return (bits_R >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _mix(bits_R: np.ndarray) -> np.ndarray:
    bits_R = (bits_R ^ (bits_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits_R = (bits_R ^ (bits_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits_R ^ (bits_R >> np.uint64(31))


def _probabilities(logprobs_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Not normalised; zero where truncated."""
    temperature_R = np.where(draws.temperature_R == 0, 1.0, draws.temperature_R)
    if (temperature_R == 1.0).all():
        probs_RV = logprobs_RV.exp()
    else:
        heat_R1 = torch.from_numpy(temperature_R).to(logprobs_RV)[:, None]
        probs_RV = torch.softmax(logprobs_RV / heat_R1, dim=-1)
    if (draws.top_k_R == 0).all() and (draws.top_p_R >= 1.0).all():
        return probs_RV
    return _truncated(probs_RV, draws)


def _truncated(probs_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
    vocab = probs_RV.shape[1]
    top_k_R1 = torch.from_numpy(np.where(draws.top_k_R == 0, vocab, draws.top_k_R)).to(probs_RV.device)[:, None]
    top_p_R1 = torch.from_numpy(draws.top_p_R).to(probs_RV.device)[:, None]
    sorted_RV, order_RV = probs_RV.sort(dim=-1, descending=True, stable=True)
    kept_RV = torch.where(torch.arange(vocab, device=probs_RV.device) < top_k_R1, sorted_RV, 0.0)
    cumulative_RV = kept_RV.cumsum(dim=-1, dtype=torch.float64)
    # The token that crosses the threshold stays, so at least one always does.
    inside_RV = (cumulative_RV - kept_RV) < top_p_R1 * cumulative_RV[:, -1:]
    inside_RV |= top_p_R1 >= 1.0
    return torch.zeros_like(probs_RV).scatter_(1, order_RV, torch.where(inside_RV, kept_RV, 0.0))


def _inverse_cdf(probs_RV: torch.Tensor, uniform_R: np.ndarray) -> torch.Tensor:
    cdf_RV = probs_RV.cumsum(dim=-1, dtype=torch.float64)
    target_R1 = torch.from_numpy(uniform_R).to(cdf_RV.device)[:, None] * cdf_RV[:, -1:]
    # The first id whose cumulative probability exceeds the target has probability above zero; the clamp is for NaN.
    return torch.searchsorted(cdf_RV, target_R1, right=True)[:, 0].clamp_(max=probs_RV.shape[1] - 1)
