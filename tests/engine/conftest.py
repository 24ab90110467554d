"""Tiny random checkpoints of three architectures, saved to disk once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

_SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far from uniform, so that a wrong key or position shows in the log-probs
}
KINDS: dict[str, Any] = {
    "qwen3_moe": lambda **more: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **_SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, tie_word_embeddings=True, **more
        )
    ),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, **more)),
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**_SHAPE | {"num_key_value_heads": 1}, **more)),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories (weights and configuration, no tokenizer) by architecture, and ``qwen3_moe/other`` weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, (kind, make) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        make().save_pretrained(root / kind)
        make().save_pretrained(root / f"{kind}-other")
    return {path.name: path for path in root.iterdir()}
