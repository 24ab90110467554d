"""Tiny random models of several architectures and random samples, small enough for fp64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from palmette.train.samples import Sample

VOCAB = 31
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "decoder_sparse_step": 1,
}


def make_model(architecture: str = "qwen3_moe", seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Return a random model in eval mode."""
    torch.manual_seed(seed)
    if architecture == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=False))
    elif architecture == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**_SHAPE, tie_word_embeddings=True))
    else:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SHAPE, **_MOE, tie_word_embeddings=True))
        model.set_experts_implementation("eager")  # the grouped kernel has no fp64
    return model.to(dtype).eval()


def make_sample(rng: np.random.Generator, length: int, *, advantage: float | None = None) -> Sample:
    """Return a sample with random tokens and up to three random turns (at least one)."""
    edges = sorted(rng.choice(np.arange(1, length + 1), size=min(6, length // 2 * 2), replace=False).tolist())
    turns = tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if b > a)
    sampled_T = np.zeros(length, bool)
    for start, end in turns:
        sampled_T[start:end] = True
    logprob_T = np.where(sampled_T, -rng.exponential(2.0, length), 0).astype(np.float32)
    value_T = rng.normal(size=length) if advantage is None else np.full(length, advantage)
    return Sample(
        token_ids_T=rng.integers(3, VOCAB, length).astype(np.int32),
        sampled_T=sampled_T,
        turns=turns,
        logprob_T=logprob_T,
        old_logprob_T=logprob_T,
        advantage_T=np.where(sampled_T, value_T, 0).astype(np.float32),
        teacher_logprob_T=(logprob_T - rng.normal(size=length) * sampled_T).astype(np.float32),
    )


def flat_gradient(model: PreTrainedModel) -> torch.Tensor:
    """Return all gradients as one vector and clear them."""
    parts = [p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts).detach().clone()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    return make_model


@pytest.fixture(scope="session")
def random_sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture(scope="session")
def gradient_of() -> Callable[[PreTrainedModel], torch.Tensor]:
    return flat_gradient
