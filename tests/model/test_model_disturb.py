"""Disturbed routers: experts flip as often as noise says, tokens beyond an expert's room get nothing, weights stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from palmette.errors import UserError
from palmette.model.disturb import disturb
from palmette.model.routing import record

SHAPE: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SHAPE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=12)
    return Qwen3MoeForCausalLM(config).eval()


def _choices(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with record(model) as recorder, torch.no_grad():
        model(ids)
    return recorder.choices_NLK()


def test_noise_flips_experts_and_each_pass_anew(model: Any) -> None:
    ids = torch.randint(0, 31, (1, 64))
    with torch.no_grad():
        clean = model(ids).logits
        outputs, generator = [], torch.Generator().manual_seed(1)
        with disturb(model, generator, router_std=0.0):
            torch.testing.assert_close(model(ids).logits, clean, rtol=0, atol=0)
        for std in (0.01, 0.01, 1.0):
            with disturb(model, generator, router_std=std):
                outputs.append(model(ids).logits)
    small, again, large = ((out - clean).abs().mean() for out in outputs)
    assert 0 < small < large
    assert small != again
    torch.testing.assert_close(model(ids).logits, clean, rtol=0, atol=0)


def test_weights_of_flipped_experts_are_those_of_clean_logits(model: Any) -> None:
    """With all experts chosen, noise can only change their order: the output stays."""
    router = model.model.layers[0].mlp.gate
    router.top_k = 8
    model.model.layers[1].mlp.gate.top_k = 8
    ids = torch.randint(0, 31, (1, 20))
    with torch.no_grad():
        clean = model(ids).logits
        with disturb(model, torch.Generator().manual_seed(0), router_std=3.0):
            torch.testing.assert_close(model(ids).logits, clean, rtol=1e-5, atol=1e-6)


def test_tokens_beyond_the_room_of_an_expert_lose_it(model: Any) -> None:
    ids = torch.randint(0, 31, (1, 48))
    with torch.no_grad():
        clean = model(ids).logits[0]
        with disturb(model, torch.Generator(), capacity=8.0):  # nobody can be asked for more
            torch.testing.assert_close(model(ids).logits[0], clean, rtol=0, atol=0)
        with disturb(model, torch.Generator(), capacity=0.5):
            tight = model(ids).logits[0]
    changed = (tight - clean).abs().amax(-1) > 1e-6
    assert not changed[0]  # the first token is served by everybody
    assert changed[-8:].any()


def test_a_model_without_routers_is_refused() -> None:
    dense = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with pytest.raises(UserError, match="no router"), disturb(dense, torch.Generator(), router_std=1.0):
        pass
