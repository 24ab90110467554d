"""Training a tree equals training its branches apart: loss and every parameter's gradient, for whole model families."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from palmette.model.tree_attention import NAME, TreePass, attend, tree_attention
from palmette.train.losses import Terms
from palmette.train.pairs import Pairs
from palmette.train.samples import Sample, Totals
from palmette.train.step import gradients

VOCAB = 64
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,  # large enough that attention matters
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[type[Any], dict[str, Any], str]] = {
    "qwen3": (Qwen3Config, {}, "sdpa"),
    "llama": (LlamaConfig, {}, "sdpa"),
    "mistral": (MistralConfig, {"sliding_window": 8}, "sdpa"),
    "gemma": (GemmaConfig, {}, "sdpa"),
    "gemma2": (Gemma2Config, {**_MIXED, "attn_logit_softcapping": 2.0}, "eager"),  # low enough to matter
    "gemma3": (Gemma3TextConfig, _MIXED, "sdpa"),
    "qwen3_moe": (Qwen3MoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, "sdpa"),
    "mixtral": (MixtralConfig, {"num_local_experts": 4}, "sdpa"),
    "gpt_oss": (GptOssConfig, {**_MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}, "eager"),
}
MOE = ("qwen3_moe", "mixtral", "gpt_oss")
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"token_budget": 10**6},
    "cut": {"token_budget": 24},
    "cut small": {"token_budget": 5},
    "recomputed": {"token_budget": 12, "recompute": True},
    "checkpointed": {"token_budget": 24, "checkpointing": True},
    "recomputed and checkpointed": {"token_budget": 12, "recompute": True, "checkpointing": True},
}


@pytest.fixture(autouse=True)
def _exact(exact: Any) -> Iterator[None]:
    with exact():
        yield


class Weighted:
    """Each pair's log-likelihood times its own weight, whatever its sign."""

    pointwise = True

    def __call__(self, logprob_M: Tensor, pairs: Pairs, totals: Totals, also_MK: Any = None) -> Terms:
        return -(logprob_M * pairs.advantage_M.to(logprob_M.dtype)).sum(), {}


@cache
def forest() -> list[Sample]:
    """Return branches that part early, late and twice, a prefix of another, a duplicate, and a tree of its own."""
    rng = np.random.default_rng(0)

    def fresh(length: int) -> np.ndarray:
        return rng.integers(3, VOCAB, length)

    trunk = fresh(20)
    first = np.concatenate([trunk, fresh(15)])
    rows = [first, trunk, first, fresh(17), np.concatenate([trunk[:11], fresh(9)])]
    rows += [np.concatenate([first[:25], fresh(n)]) for n in (9, 12, 1, 1, 2)]
    samples = []
    for row in rows:
        sampled_T = (rng.random(len(row)) < 0.6) & (np.arange(len(row)) > 0)
        turns = tuple((int(t), int(t) + 1) for t in np.flatnonzero(sampled_T))
        weight_T = (rng.normal(size=len(row)) * sampled_T / 50).astype(np.float32)
        samples.append(Sample(token_ids_T=row, sampled_T=sampled_T, turns=turns, advantage_T=weight_T))
    return samples


@cache
def model_of(family: str, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """Return a random model whose weights are bf16 numbers, whatever the dtype."""
    name, _, smooth = family.partition(" ")
    config, more, implementation = FAMILIES[name]
    torch.manual_seed(seed)
    shape = _SHAPE | more | ({"num_experts_per_tok": 4} if smooth else {})
    model = AutoModelForCausalLM.from_config(config(**shape), attn_implementation=implementation)
    if dtype == torch.float64 and name in MOE:
        model.set_experts_implementation("eager")  # the grouped kernel has no fp64
    return model.to(torch.bfloat16).to(dtype).eval()


@cache
def apart(family: str, dtype: torch.dtype, seed: int = 0) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of every branch on its own, by the model as transformers made it."""
    model = model_of(family, dtype, seed)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for sample in forest():
        ids = torch.from_numpy(sample.token_ids_T)
        logp_TV = model(input_ids=ids[None]).logits[0]
        logp_TV = logp_TV.to(torch.promote_types(dtype, torch.float32)).log_softmax(-1)
        logp_t = logp_TV[:-1].gather(1, ids[1:, None])[:, 0]
        loss = -(logp_t * torch.from_numpy(sample.advantage_T[1:]).to(logp_t.dtype)).sum()
        loss.backward()
        total += float(loss.detach())
    return total, taken(model)


def taken(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the gradients in fp64 and clear them."""
    found = {name: (torch.zeros_like(p) if p.grad is None else p.grad).double() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def as_tree(
    family: str, dtype: torch.dtype, exact: Any, seed: int = 0, *, checkpointing: bool = False, **way: Any
) -> tuple[float, dict[str, Tensor]]:
    model = model_of(family, dtype, seed)
    model.zero_grad(set_to_none=True)
    with checkpointed(model, exact) if checkpointing else nullcontext():
        sums = gradients(model, forest(), Weighted(), tree=True, **way)
    return sums["loss"], taken(model)


@contextmanager
def checkpointed(model: PreTrainedModel, exact: Any) -> Iterator[None]:
    """Checkpoint activations; layers do so only in training mode, which without dropout is eval mode otherwise."""
    again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), exact())}
    model.activation_checkpointing_enable(again)
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    assert len(layers) >= 2
    for layer in layers:
        layer.training = True
    model.training = False
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        model.eval()


def norm(gradient: dict[str, Tensor]) -> float:
    return float(torch.stack([g.norm() for g in gradient.values()]).norm())


def error(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return norm({name: got[name] - expected[name] for name in expected}) / norm(expected)


def check(got: tuple[float, Any], expected: tuple[float, Any], tolerance: float) -> None:
    assert got[0] == pytest.approx(expected[0], rel=tolerance)
    whole = norm(expected[1])
    for name, gradient in expected[1].items():
        assert float(gradient.norm()) > 1e-3 * whole, name  # nothing is equal for being nothing
        assert float((got[1][name] - gradient).norm()) <= tolerance * float(gradient.norm()), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_fp64_is_exact(family: str, way: str, exact: Any) -> None:
    check(as_tree(family, torch.float64, exact, **WAYS[way]), apart(family, torch.float64), 1e-9)


def mostly_slow(families: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name == "qwen3" else pytest.mark.slow) for name in families]


@pytest.mark.parametrize("family", mostly_slow(list(FAMILIES)))
def test_fp32_differs_by_rounding(family: str, exact: Any) -> None:
    expected = apart(family, torch.float64)
    for way in WAYS.values():
        got = as_tree(family, torch.float32, exact, **way)
        check(got, apart(family, torch.float32), 1e-5)
        assert error(got[1], expected[1]) < 1e-5


# All experts for every token: which of few are chosen jumps with the slightest rounding, apart as well as in trees.
SMOOTH = [name for name in FAMILIES if name not in MOE] + [f"{name} with all experts" for name in MOE]


@pytest.mark.parametrize("family", mostly_slow(SMOOTH))
def test_bf16_is_no_worse_than_flat_bf16(family: str, exact: Any) -> None:
    """On average over models: the errors of one differ by a tenth this way or that."""
    flat, tree = [], {name: [] for name in ("whole", "cut", "cut small")}
    for seed in range(4):
        expected = apart(family, torch.float64, seed)[1]
        flat.append(error(apart(family, torch.bfloat16, seed)[1], expected))
        for name, found in tree.items():
            found.append(error(as_tree(family, torch.bfloat16, exact, seed, **WAYS[name])[1], expected))
    for name, found in tree.items():
        assert np.log(found).mean() - np.log(flat).mean() < 0.1, name


@pytest.mark.parametrize(
    ("family", "without"),
    [
        ("mistral", {"sliding_window": None}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"sliding_window": 100}),
        ("gemma3", {"sliding_window": 100}),
        ("gpt_oss", {"sliding_window": 100}),
    ],
)
def test_what_a_family_is_here_for_matters(family: str, without: dict[str, Any]) -> None:
    model = model_of(family, torch.float64)
    config, more, implementation = FAMILIES[family]
    other = AutoModelForCausalLM.from_config(config(**(_SHAPE | more | without)), attn_implementation=implementation)
    other = other.double().eval()
    if family in MOE:
        other.set_experts_implementation("eager")
    other.load_state_dict(model.state_dict())
    ids = torch.from_numpy(forest()[0].token_ids_T)[None]
    with torch.no_grad():
        assert (model(input_ids=ids).logits - other(input_ids=ids).logits).abs().max() > 0.01


@pytest.mark.parametrize(
    ("family", "reasons"),
    [
        ("qwen3", []),
        ("gemma", []),
        ("mistral", ["a sliding window"] * 2),
        ("gemma2", ["a sliding window and soft-capped scores", "soft-capped scores"]),
        ("gemma3", ["a sliding window"]),
        ("gpt_oss", ["a sliding window and attention sinks", "attention sinks"]),
    ],
)
def test_a_dense_mask_only_where_it_must_be(
    family: str, reasons: list[str], exact: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "palmette.tree"):
        as_tree(family, torch.float32, exact, token_budget=10**6)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == reasons


def test_a_window_that_no_token_reaches_needs_no_mask(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("mistral", torch.float32)
    short = [replace(s, token_ids_T=s.token_ids_T[:8], **_cut(s, 8)) for s in forest()]
    with caplog.at_level("DEBUG", "palmette.tree"):
        gradients(model, short, Weighted(), token_budget=1000)
    taken(model)
    assert not caplog.records


def _cut(sample: Sample, length: int) -> dict[str, Any]:
    arrays = ("sampled_T", "logprob_T", "old_logprob_T", "advantage_T")
    turns = tuple((start, end) for start, end in sample.turns if end <= length)
    return {"turns": turns, **{name: getattr(sample, name)[:length] for name in arrays}}


def test_refusals() -> None:
    module = nn.Module()
    module.layer_idx = 0  # pyright: ignore[reportArgumentType]
    one = torch.zeros(1, 2, 3, 4)
    depth_N = torch.arange(3)
    tree = TreePass(depth_N=depth_N, end_N=torch.full((3,), 3), squares=[(0, 3)])
    assert attend(module, one, one, one, None, tree=tree, is_causal=True)[0].shape == (1, 3, 2, 4)
    with pytest.raises(ValueError, match="tree=TreePass"):
        attend(module, one, one, one, None)
    with pytest.raises(ValueError, match="no dropout, and no mask"):
        attend(module, one, one, one, None, tree=tree, dropout=0.1)
    with pytest.raises(ValueError, match="no dropout, and no mask"):
        attend(module, one, one, one, torch.zeros(1, 1, 3, 3), tree=tree)
    with pytest.raises(ValueError, match="does not know what alibi, bias of Module means"):
        attend(module, one, one, one, None, tree=tree, bias=one, alibi=one, nothing=None)


def test_a_model_is_left_as_it_was() -> None:
    model = model_of("llama", torch.float32)
    ids = torch.arange(5)[None]
    before = model(input_ids=ids).logits
    with tree_attention(model):
        assert model.config._attn_implementation == NAME
        with pytest.raises(ValueError, match="tree=TreePass"):
            model(input_ids=ids)
    assert torch.equal(model(input_ids=ids).logits, before)
    with pytest.raises(ZeroDivisionError), tree_attention(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids).logits, before)
