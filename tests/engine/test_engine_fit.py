"""Models that do not fit slots are refused by name; windows that the engine can hold are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from palmette.engine.api import Sampling
from palmette.engine.fit import prove_fit
from palmette.engine.forward import Forward
from palmette.engine.local import LocalEngine
from palmette.errors import UserError

_SMALL = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    "model",
    [
        MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=20)),
        Qwen3ForCausalLM(Qwen3Config(**_SMALL, sliding_window=20, use_sliding_window=True, max_window_layers=1)),
    ],
    ids=["all layers", "every other layer"],
)
async def test_sliding_windows_are_exact(model: torch.nn.Module) -> None:
    prompt = [(t * t + t) % 67 for t in range(50)]
    engine = LocalEngine(model, stop_ids=(), threads=1)
    first = await engine.complete(prompt, Sampling(max_tokens=30, seed=1))
    ids = prompt + list(first.token_ids) + prompt[:9]
    second = await engine.complete(ids, Sampling(max_tokens=30, seed=2))
    assert engine.stats()["cached_tokens"] >= 64
    await engine.close()
    for start, completion in ((prompt, first), (ids, second)):
        whole = start + list(completion.token_ids)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole]), use_cache=False).logits[0]
        expected = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(whole[1:])[:, None])[:, 0]
        got = torch.tensor(completion.logprobs)
        torch.testing.assert_close(got, expected[len(start) - 1 :], atol=1e-4, rtol=0)


def test_linear_attention_is_refused() -> None:
    config = Qwen3NextConfig(
        **_SMALL,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        layer_types=["linear_attention", "full_attention"],
    )
    with pytest.raises(UserError, match="'linear_attention'"):
        LocalEngine(Qwen3NextForCausalLM(config), stop_ids=())


def test_state_space_models_are_refused() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=67, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(UserError, match="MambaForCausalLM"):
        LocalEngine(model, stop_ids=())


def test_soft_capped_attention_is_refused_by_name() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(**_SMALL, sliding_window=64, query_pre_attn_scalar=8))
    with pytest.raises(UserError, match="softcap"):
        LocalEngine(model, stop_ids=())
    assert model.config._attn_implementation != "palmette_slots"


def test_growing_rope_is_refused_beyond_its_original_context() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = Qwen3ForCausalLM(Qwen3Config(**_SMALL | {"max_position_embeddings": 64}, rope_parameters=rope))
    engine = LocalEngine(model, stop_ids=(), context_tokens=64)
    assert engine.context_tokens == 64


def test_the_proof_notices_wrong_attention(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a cached key off by one position, the engine would refuse the model."""
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).eval()
    prove_fit(Forward(model, 4))
    monkeypatch.setattr("palmette.engine.attention.Plan._decode_mask", _one_key_short)
    with pytest.raises(UserError, match="other logits"):
        prove_fit(Forward(model, 4))


def _one_key_short(plan, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    seen = torch.arange(plan.key_len) < plan.positions_W[: plan.decoding, None]
    return torch.where(seen, torch.zeros((), dtype=dtype), float("-inf"))[:, None, None]
