"""Mixtures of experts over trees: load balancing counts every branch, and recorded routes follow the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PreTrainedModel, Qwen3MoeConfig

from palmette.errors import UserError
from palmette.model.routing import record
from palmette.train.samples import Sample, from_demonstration
from palmette.train.sft import Likelihood
from palmette.train.step import gradients

_SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}
_EXPERTS = {
    "qwen3_moe": Qwen3MoeConfig(**_SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "mixtral": MixtralConfig(**_SHAPE, num_local_experts=4),
}
WAYS: dict[str, dict[str, Any]] = {
    "flat in batches": {"token_budget": 40, "tree": False},
    "whole": {"token_budget": 10**6},
    "cut": {"token_budget": 20},
    "recomputed": {"token_budget": 12, "recompute": True},
}
_CLOSE = 1e-6  # RMS norms count in fp32 also in an fp64 model


@pytest.fixture(params=_EXPERTS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_EXPERTS[request.param]).to(torch.float64).eval()
    model.set_experts_implementation("eager")  # the grouped kernel knows no fp64
    return model


@pytest.fixture
def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 64, 20)
    deep = np.concatenate([trunk, rng.integers(0, 64, 15)])
    ends = [(deep, 35, 0), (deep, 25, 9), (deep, 25, 12), (trunk, 11, 9), (trunk, 20, 0), (deep, 35, 0), (trunk, 0, 17)]
    sequences = [np.concatenate([stem[:kept], rng.integers(0, 64, fresh)]) for stem, kept, fresh in ends]
    return [
        from_demonstration(s.tolist(), ((rng.random(len(s)) < 0.6) & (np.arange(len(s)) > 0)).tolist())
        for s in sequences
    ]


def _gradient(model: PreTrainedModel, samples: list[Sample], **how: Any) -> tuple[dict[str, float], Tensor]:
    model.zero_grad()
    sums = gradients(model, samples, Likelihood(), **how)
    return sums, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("way", WAYS)
def test_load_balancing_counts_every_branch(model: PreTrainedModel, samples: list[Sample], way: str) -> None:
    expected, flat = _gradient(model, samples, token_budget=10**6, tree=False, load_balance=0.5)
    _, without = _gradient(model, samples, token_budget=10**6, tree=False)
    found, tree = _gradient(model, samples, load_balance=0.5, **WAYS[way])
    assert _apart(without, flat) > 0.01
    assert _apart(tree, flat) < _CLOSE
    assert found["load_balance"] == pytest.approx(expected["load_balance"], rel=1e-9)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-9)  # told apart


def _routed(model: PreTrainedModel, sample: Sample, shift: int) -> Sample:
    """Record the routes of a sample; from token 10 on pretend that experts `shift` further were chosen."""
    with record(model) as recorder, torch.no_grad():
        model(input_ids=torch.from_numpy(np.asarray(sample.token_ids_T, np.int64))[None])
    route_TLK = recorder.choices_NLK().numpy().copy()
    route_TLK[10:] = (route_TLK[10:] + shift) % 4
    return replace(sample, route_TLK=route_TLK)


@pytest.mark.parametrize("way", WAYS)
def test_recorded_routes_follow_the_tokens(model: PreTrainedModel, samples: list[Sample], way: str) -> None:
    own = [_routed(model, sample, 0) for sample in samples]
    other = [_routed(model, sample, 1) for sample in samples]
    _, plain = _gradient(model, samples, token_budget=10**6, tree=False)
    _, expected = _gradient(model, other, token_budget=1, tree=False)
    assert _apart(expected, plain) > 0.01
    assert _apart(_gradient(model, own, **WAYS[way])[1], plain) < _CLOSE
    assert _apart(_gradient(model, other, **WAYS[way])[1], expected) < _CLOSE


def test_branches_that_took_other_experts_are_not_merged(model: PreTrainedModel, samples: list[Sample]) -> None:
    one, two = _routed(model, samples[0], 0), _routed(model, samples[0], 1)
    found, tree = _gradient(model, [one, two], token_budget=10**6)
    _, apart = _gradient(model, [one, two], token_budget=1, tree=False)
    assert found["tree_tokens"] == 10 + 2 * (len(one.token_ids_T) - 10)
    assert _apart(tree, apart) < _CLOSE


def test_samples_without_routes_choose_themselves(model: PreTrainedModel, samples: list[Sample]) -> None:
    mixed = [_routed(model, samples[0], 1), *samples[1:]]
    _, tree = _gradient(model, mixed, token_budget=20)
    _, apart = _gradient(model, mixed, token_budget=1, tree=False)
    assert _apart(tree, apart) < _CLOSE


def test_a_dense_model_has_nothing_to_balance(samples: list[Sample]) -> None:
    dense = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE)).eval()
    with pytest.raises(UserError, match=r"train\.load_balance"):
        gradients(dense, samples, Likelihood(), token_budget=100, load_balance=0.1)
