"""Load balancing over trees and replayed routers against flat sequences, transformers' loss, plain references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from palmette.errors import UserError
from palmette.model.routing import Choices, counts, load_balancing_loss, record, replay

_SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "attn_implementation": "eager",
}
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}
_SPARSE: dict[str, Any] = {"num_experts": 6, "moe_intermediate_size": 8}
_LOCAL: dict[str, Any] = {"num_local_experts": 6}
_CONFIGS: dict[str, dict[str, Any]] = {  # the words after "/" are ours
    "qwen3_moe": {**_SPARSE, "norm_topk_prob": True},
    "qwen3_moe/raw": {**_SPARSE, "norm_topk_prob": False},
    "qwen2_moe": {**_SPARSE, "shared_expert_intermediate_size": 8},
    "mixtral": _LOCAL,
    "olmoe": {"num_experts": 6},
    "gpt_oss": _LOCAL,
    "granitemoe": _LOCAL,
    "ernie4_5_moe": {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 8},
    "deepseek_v2": {**_LATENT, "n_routed_experts": 6, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**_LATENT, "n_routed_experts": 6, "n_group": 3, "topk_group": 2},
}
_FAMILIES = sorted(_CONFIGS)


def _softmax(router: Any, hidden: Tensor) -> Tensor:
    return (hidden @ router.weight.T).softmax(-1, dtype=torch.float32)


def _normal(score_NK: Tensor) -> Tensor:
    return score_NK / score_NK.sum(-1, keepdim=True)


# The scores of chosen experts, written by hand from each family's paper or code.
_SCORES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "qwen3_moe": lambda r, x, c: _normal(_softmax(r, x).gather(1, c)),
    "qwen3_moe/raw": lambda r, x, c: _softmax(r, x).gather(1, c),
    "qwen2_moe": lambda r, x, c: _softmax(r, x).gather(1, c),
    "mixtral": lambda r, x, c: _normal(_softmax(r, x).gather(1, c)),
    "olmoe": lambda r, x, c: _softmax(r, x).gather(1, c),
    "gpt_oss": lambda r, x, c: (x @ r.weight.T + r.bias).gather(1, c).softmax(-1),
    "granitemoe": lambda r, x, c: (x @ r.weight.T).float().gather(1, c).softmax(-1),
    "ernie4_5_moe": lambda r, x, c: _normal((x.float() @ r.weight.T.float()).softmax(-1).gather(1, c)),
    "deepseek_v2": lambda r, x, c: 1.5 * (x.float() @ r.weight.T.float()).softmax(-1).gather(1, c),
    "deepseek_v3": lambda r, x, c: 1.5 * _normal((x.float() @ r.weight.T.float()).sigmoid().gather(1, c)),
}


def _model(family: str, **changes: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(family.split("/")[0], **_SHAPE | _CONFIGS[family] | changes)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, experts_implementation="eager")
    for _, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3)  # far from the zeros and ones that hide mistakes
    return model.train()


def _routers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__.lower().endswith("topkrouter")]


IDS_BT = torch.arange(14).reshape(2, 7) * 11 % 40


def _run(model: PreTrainedModel, *, backward: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits and, of a loss with a share of every logit, all gradients."""
    model.zero_grad()
    logits = model(input_ids=IDS_BT, use_cache=False).logits
    if backward:
        _loss(logits).backward()
    return logits.detach(), _gradients(model)


def _loss(logits: Tensor) -> Tensor:
    return (logits.double() * torch.sin(torch.arange(logits.numel()).reshape(logits.shape))).sum()


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _other_choices(layers: int, *, seed: int = 5) -> Tensor:
    """Return choices of two of six experts that no router made."""
    torch.manual_seed(seed)
    return torch.rand(IDS_BT.numel(), layers, 6).argsort(-1)[..., :2]


def _far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest relative distance of two sets of gradients."""
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).norm() / (other[n].norm() + 1e-30)) for n in one)


@pytest.mark.parametrize("family", _FAMILIES)
def test_replaying_its_own_choices_changes_no_bit(family: str) -> None:
    model = _model(family)
    with record(model) as recorder:
        plain, plain_gradients = _run(model)
    choices = recorder.choices_NLK()
    assert choices.shape == (14, len(_routers(model)), 2)
    with replay(model, choices):
        again, gradients = _run(model)
    assert torch.equal(plain, again)
    assert all(torch.equal(gradients[name], plain_gradients[name]) for name in plain_gradients)


@pytest.mark.parametrize("family", _FAMILIES)
def test_recorded_choices_are_those_of_the_experts(family: str) -> None:
    model = _model(family)
    seen: list[Tensor] = []
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    with record(model) as recorder:
        _run(model, backward=False)
    assert torch.equal(recorder.choices_NLK(), torch.stack(seen, 1))


@pytest.mark.parametrize("family", _FAMILIES)
def test_replaying_other_choices_equals_blocks_written_by_hand(family: str) -> None:
    """Logits and all gradients, the routers' too, against scores from formulas and experts called one at a time."""
    model = _model(family)
    routers = _routers(model)
    choices = _other_choices(len(routers))
    with replay(model, choices):
        logits, gradients = _run(model)
    for layer, router in enumerate(routers):
        _by_hand(model, router, choices[:, layer], _SCORES[family])
    expected, expected_gradients = _run(model)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)  # families' softmax runs in fp32
    assert _far(gradients, expected_gradients) < 1e-5
    for router in routers:
        assert all(float(p.grad.abs().sum()) > 0 for p in router.parameters() if p.grad is not None)
        assert any(p.grad is not None for p in router.parameters())


def _by_hand(model: nn.Module, router: nn.Module, choice_NK: Tensor, scores: Callable[..., Tensor]) -> None:
    """Replace experts such that a router's word counts for nothing: its own choice is not asked for at all."""
    block = next(m for m in model.modules() if router in m.children())
    experts: Any = next(child for child in block.children() if type(child).__name__.endswith("Experts"))
    own = experts.forward

    def forward(hidden: Tensor, *_: Any) -> Tensor:
        score_NK = scores(router, hidden, choice_NK).to(hidden.dtype)
        out = torch.zeros_like(hidden)
        for expert in range(6):
            everyone = torch.full((len(hidden), 1), expert), torch.ones(len(hidden), 1, dtype=hidden.dtype)
            weight_N = (score_NK * (choice_NK == expert)).sum(-1)
            out = out + weight_N.unsqueeze(1) * own(hidden, *everyone)
        return out

    experts.forward = forward


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "deepseek_v3"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_replay_even_when_the_backward_pass_comes_after(family: str, reentrant: bool) -> None:
    model = _model(family)
    one, other = _other_choices(len(_routers(model))), _other_choices(len(_routers(model)), seed=6)
    with replay(model, one):
        expected, expected_gradients = _run(model)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.zero_grad()
    with replay(model, one):
        logits = model(input_ids=IDS_BT, use_cache=False).logits
    with replay(model, other):  # another pass lies between, as when trees are cut into parts
        between = model(input_ids=IDS_BT, use_cache=False).logits
    assert not torch.allclose(between, logits)
    _loss(logits).backward()
    assert torch.equal(logits, expected)
    assert _far(_gradients(model), expected_gradients) < 1e-12


def test_recording_under_checkpointing_gives_the_same_choices() -> None:
    model = _model("mixtral")
    with record(model) as plain:
        _run(model)
    model.activation_checkpointing_enable()
    with record(model) as checkpointed:
        _run(model)
    assert torch.equal(plain.choices_NLK(), checkpointed.choices_NLK())


@pytest.mark.parametrize("family", _FAMILIES)
def test_tokens_without_recorded_choices_choose_themselves(family: str) -> None:
    model = _model(family)
    routers = _routers(model)
    with record(model) as recorder:
        plain, _ = _run(model, backward=False)
    own = recorder.choices_NLK()
    mixed = _other_choices(len(routers))
    mixed[:7] = -1  # the first row; rows do not see each other
    seen: list[Tensor] = []
    handles = [router.register_forward_hook(lambda _, __, out: seen.append(out[2])) for router in routers]
    with replay(model, mixed):
        logits, _ = _run(model, backward=False)
    for handle in handles:
        handle.remove()
    assert torch.equal(torch.stack(seen, 1), torch.cat([own[:7], mixed[7:]]))
    assert torch.equal(logits[0], plain[0])
    assert not torch.allclose(logits[1], plain[1])


def _traces(model: nn.Module) -> list[tuple[str, Any]]:
    names = ("forward", "_gradient_checkpointing_func")
    traces = [(name, vars(m).get(name)) for m in model.modules() for name in names]
    return traces + [("hooks", len(m._forward_hooks) + len(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_nothing_stays_behind_also_after_an_exception_and_nesting_is_refused(checkpointed: bool) -> None:
    model = _model("qwen3_moe")
    if checkpointed:
        model.activation_checkpointing_enable()
    before = _traces(model)
    plain, _ = _run(model, backward=False)
    choices = _other_choices(3)
    for outer in (lambda: replay(model, choices), lambda: record(model)):
        for inner in (lambda: replay(model, choices), lambda: record(model)):
            with pytest.raises(ValueError, match="do not nest"), outer(), inner():
                pass
    with pytest.raises(IndexError), replay(model, choices):
        model(input_ids=IDS_BT + 40)
    with pytest.raises(ValueError, match=r"\(14, 2\).*\(13, 2\)"), replay(model, choices[:13]):
        _run(model)
    assert _traces(model) == before
    assert torch.equal(_run(model, backward=False)[0], plain)


def test_what_does_not_fit_the_model_is_refused() -> None:
    model = _model("mixtral")
    good = _other_choices(3)
    twice, high, half = good.clone(), good.clone(), good.clone()
    twice[4, 1] = 3
    high[5, 2, 0] = 6
    half[6, 0, 1] = -1
    cases = [
        (good[:, :2], "3 MoE layers"),
        (good.float(), "needs integers"),
        (twice, r"token 4 in MoE layer 1 are \[3, 3\]"),
        (high, "token 5 in MoE layer 2"),
        (half, "token 6 in MoE layer 0"),
    ]
    for choices, words in cases:
        with pytest.raises(ValueError, match=words), replay(model, choices):
            pass
    with pytest.raises(ValueError, match=r"routers \[0, 1, 2\] did not run"), replay(model, good):
        pass
    with record(model) as recorder:
        pass
    with pytest.raises(ValueError, match=r"routers \[0, 1, 2\] have not run"):
        recorder.choices_NLK()


def test_models_whose_routers_are_of_another_kind_are_refused_by_name() -> None:
    def build(kind: str) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **_SHAPE, **_LOCAL))

    with pytest.raises(UserError, match="LlamaForCausalLM has no router"), record(build("llama")):
        pass
    with pytest.raises(UserError, match="Llama4Router does not return"), record(build("llama4_text")):
        pass
    sparse = build("phimoe")
    with record(sparse) as recorder:
        sparse(input_ids=IDS_BT)
    with pytest.raises(UserError, match="PhimoeTopKRouter does not choose"), replay(sparse, recorder.choices_NLK()):
        sparse(input_ids=IDS_BT)


def test_routers_that_drop_scores_outside_live_groups_are_refused_only_where_that_matters() -> None:
    changes = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 1}
    model = _model("deepseek_v2", **changes)
    with record(model) as recorder:
        plain, _ = _run(model, backward=False)
    own = recorder.choices_NLK()
    with replay(model, own):
        assert torch.equal(_run(model, backward=False)[0], plain)
    with pytest.raises(UserError, match="outside the groups"), replay(model, (own + 2) % 6):
        _run(model)


def _step(passes: list[tuple[list[Tensor], Tensor]], top_k: int) -> Choices:
    first, *rest = (counts(logits, weight_N, top_k=top_k) for logits, weight_N in passes)
    for other in rest:
        first = first + other
    return first


def _defined(logits: list[Tensor], top_k: int) -> Tensor:
    """Return the loss as the paper states it, over rows that each count once."""
    probability_ME = torch.cat(logits).softmax(-1)
    width = probability_ME.shape[-1]
    chosen_ME = nn.functional.one_hot(probability_ME.topk(top_k).indices, width).sum(1)
    return width * (chosen_ME.double().mean(0) * probability_ME.mean(0)).sum()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_weighted_loss_over_unique_tokens_in_any_passes_is_that_of_all_branches(data: st.DataObject) -> None:
    tokens, experts = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 7))
    layers, top_k = data.draw(st.integers(1, 3)), data.draw(st.integers(1, experts))
    branches = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=tokens, max_size=tokens)))
    branches[0] += 1
    torch.manual_seed(data.draw(st.integers(0, 99)))
    leaves = [torch.randn(tokens, experts, dtype=torch.float64, requires_grad=True) for _ in range(layers)]

    flat = _defined([leaf.repeat_interleave(branches, 0) for leaf in leaves], top_k)
    expected = torch.autograd.grad(flat, leaves)

    cuts = sorted(data.draw(st.sets(st.integers(1, tokens), max_size=3)) | {tokens})
    spans = [slice(start, end) for start, end in zip([0, *cuts], cuts, strict=False)]
    passes = [([leaf[span] for leaf in leaves], branches[span]) for span in spans]
    step = _step(passes, top_k)
    shares = [load_balancing_loss(logits, weight_N, step) for logits, weight_N in passes]
    for share in shares:  # one backward pass each, as parts of a tree are trained
        share.backward()
    torch.testing.assert_close(torch.stack(shares).sum(), flat, rtol=1e-12, atol=1e-12)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_flat_loss_and_gradient_are_those_of_transformers(dtype: torch.dtype, weighted: bool) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(24, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    weight_N = torch.randint(0, 5, (24,)).float() if weighted else torch.ones(24)
    function: Any = load_balancing_loss_func
    theirs = function(tuple(leaves), 8, 2, weight_N.reshape(2, 12) if weighted else None)
    expected = torch.autograd.grad(theirs, leaves)
    ours = load_balancing_loss(leaves, weight_N, counts(leaves, weight_N, top_k=2))
    gradients = torch.autograd.grad(ours, leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    for mine, gradient in zip(gradients, expected, strict=True):
        assert (mine - gradient).norm() / gradient.norm() < (1e-6 if dtype == torch.float32 else 1e-2)


def test_weights_must_be_one_a_row() -> None:
    with pytest.raises(ValueError, match="one row for each of 3 weights"):
        counts([torch.zeros(4, 2)], torch.ones(3), top_k=1)


# A trunk of 4 tokens; two branches of 3 and 2 tokens; the first splits again into 2 and 1.
_PARENT = [-1, 0, 1, 2, 3, 4, 5, 6, 7, 6, 3, 10]


def _paths() -> list[list[int]]:
    leaves = sorted(set(range(len(_PARENT))) - set(_PARENT))
    paths = []
    for leaf in leaves:
        path = [leaf]
        while _PARENT[path[0]] >= 0:
            path.insert(0, _PARENT[path[0]])
        paths.append(path)
    return paths


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe"])
def test_a_tree_through_a_model_has_the_balance_of_its_branches(family: str, checkpointed: bool) -> None:
    model = _model(family)
    ids_N, paths = IDS_BT.flatten()[: len(_PARENT)], _paths()
    each = [model(input_ids=ids_N[path][None], output_router_logits=True).router_logits for path in paths]
    flat = _defined([torch.cat(layer) for layer in zip(*each, strict=True)], 2)
    flat.backward()
    expected = _gradients(model)
    model.zero_grad()

    if checkpointed:
        model.activation_checkpointing_enable()
    sees_NN = torch.full((len(_PARENT), len(_PARENT)), float("-inf"), dtype=torch.float64)
    for path in paths:
        for at, row in enumerate(path):
            sees_NN[row, path[: at + 1]] = 0.0
    depth_N = torch.tensor([next(path.index(n) for path in paths if n in path) for n in range(len(_PARENT))])
    branches_N = torch.tensor([sum(n in path for path in paths) for n in range(len(_PARENT))])
    base: Any = model.base_model
    tree = base(
        input_ids=ids_N[None],
        position_ids=depth_N[None],
        attention_mask=sees_NN[None, None],
        use_cache=False,
        output_router_logits=True,
    )
    loss = load_balancing_loss(
        tree.router_logits, branches_N, counts(tree.router_logits, branches_N, top_k=model.config.num_experts_per_tok)
    )
    loss.backward()
    torch.testing.assert_close(loss, flat, rtol=1e-12, atol=1e-12)
    assert _far(_gradients(model), expected) < 1e-6  # norms and rotary angles run in fp32
