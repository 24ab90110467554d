"""Routers of mixture-of-experts models: load balancing over trees, and choices of experts recorded and replayed.

Works on every decoder of transformers whose routers are known to its output recorder and return (logits, scores,
choices), the choices made by one `torch.topk` over all experts; tested for Qwen2-MoE, Qwen3-MoE, Mixtral, OLMoE,
GPT-OSS, Granite-MoE, Ernie 4.5, DeepSeek-V2 and V3. Others are refused by name, at the latest when their router runs.

Load balancing is that of Switch Transformer (arXiv 2101.03961, equations 4 to 6) as transformers computes it, over all
layers at once: L = E sum_e f_e P_e, f_e the share of tokens that chose expert e, P_e its mean probability. Not covered:
experts that drop tokens over their capacity and losses taken per sequence (DeepSeek), neither of which is a sum over
tokens, and families whose recorder yields probabilities in place of logits (Gemma 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from palmette.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How often each expert was chosen, in all layers, and the weight of all tokens in all layers; no gradient."""

    chosen_E: Tensor
    weight: Tensor  # scalar

    def __add__(self, other: Choices) -> Choices:
        """Return the sums of two passes (or workers) of one optimiser step."""
        return Choices(chosen_E=self.chosen_E + other.chosen_E, weight=self.weight + other.weight)


@torch.no_grad()
def counts(router_logits: Sequence[Tensor], weight_N: Tensor, *, top_k: int) -> Choices:
    """Return what the routers of one pass would choose, a token counting `weight_N` times (branches through it).

    `router_logits` holds one tensor _N_E a layer, as `model(..., output_router_logits=True)` returns them.
    """
    probability, weight_N = _probabilities(router_logits, weight_N)
    chosen_E = torch.zeros_like(probability[0][0], dtype=weight_N.dtype)
    for probability_NE in probability:
        picked_NK = probability_NE.topk(top_k, dim=-1).indices
        chosen_E.index_add_(0, picked_NK.flatten(), weight_N.repeat_interleave(top_k))
    return Choices(chosen_E=chosen_E, weight=weight_N.sum() * len(probability))


def load_balancing_loss(router_logits: Sequence[Tensor], weight_N: Tensor, step: Choices) -> Tensor:
    """Return one pass's share of the loss of a whole optimiser step; shares and their gradients add up to it.

    `step` is the sum of `counts` over all passes of the step, so their logits must be known before the first backward
    pass. With one pass and all weights 1 this is transformers' `load_balancing_loss_func`; with weights g_n, the number
    of branches through token n of a tree, value and gradient are those of all branches apart.
    """
    probability, weight_N = _probabilities(router_logits, weight_N)
    share_E = step.chosen_E / step.weight
    mass_E = torch.stack([weight_N @ probability_NE.to(weight_N.dtype) for probability_NE in probability]).sum(0)
    return len(share_E) * (share_E * mass_E / step.weight).sum()


@dataclass(slots=True)
class Recorder:
    """The choices of the last forward pass inside `record`."""

    layers: int
    _choice_NK: dict[int, Tensor] = field(default_factory=dict)

    def choices_NLK(self) -> Tensor:
        """Return the experts chosen (int64) by each of N tokens (all rows of the batch in turn) in L layers."""
        if missing := [layer for layer in range(self.layers) if layer not in self._choice_NK]:
            raise ValueError(f"routers {missing} have not run; run the model inside record() first")
        return torch.stack([self._choice_NK[layer] for layer in range(self.layers)], 1)

    def keep(self, layer: int, choice_NK: Tensor) -> None:
        """Remember the choices of a layer."""
        self._choice_NK[layer] = choice_NK.detach().clone()


@contextmanager
def record(model: PreTrainedModel) -> Iterator[Recorder]:
    """Keep which experts every router chooses in the forward pass run while entered, also one that `disturb` disturbs.

    Raises `UserError` for a model that does not fit, `ValueError` inside another `record` or `replay`.
    """
    routers = routers_of(model)
    recorder = Recorder(len(routers))

    def call(layer: int, own: Callable[..., Any], *args: Any, **named: Any) -> Any:
        out = own(*args, **named)
        recorder.keep(layer, chosen_by(out, routers[layer]))
        return out

    with _replaced(_stand_ins(routers, call, over=True)):
        yield recorder


@contextmanager
def replay(model: PreTrainedModel, choices_NLK: Tensor) -> Iterator[None]:
    """Make every router choose the recorded experts in forward passes (of the same N tokens) run while entered.

    Logits stay live: the family's own router runs, and only what its `torch.topk` over the experts returns is another
    choice, with the live values there, so normalisation, scaling and gradients are its own. A token whose choices in a
    layer are all -1 was not recorded and chooses itself. Backward passes may run later, also of checkpointed layers.

    Raises `UserError` for a model that does not fit, `ValueError` for choices that do not, inside another `record` or
    `replay`, and when a router never ran (a fused kernel in its place, or no forward pass).
    """
    routers = routers_of(model)
    widths = [experts_of(router) for router in routers]
    choices = _checked(choices_NLK, widths)
    ran: set[int] = set()

    def call(layer: int, own: Callable[..., Any], *args: Any, **named: Any) -> Any:
        with _Forced(choices[layer], widths[layer]) as forced:
            out = own(*args, **named)
        chosen_NK = chosen_by(out, routers[layer])
        if forced.choice_NK is None or not (chosen_NK is forced.choice_NK or torch.equal(chosen_NK, forced.choice_NK)):
            raise _misfit(routers[layer], "does not choose its experts by one topk over all of them")
        if forced.grouped and bool((out[1] == 0).any()):  # scores of groups that were not chosen live are gone
            raise _misfit(routers[layer], "gives no score to experts outside the groups it would choose now")
        ran.add(layer)
        return out

    stand_ins = _stand_ins(routers, call)
    checkpoints = [
        (module, "_gradient_checkpointing_func", _within(vars(module)["_gradient_checkpointing_func"], stand_ins))
        for module in model.modules()
        if "_gradient_checkpointing_func" in vars(module)
    ]
    with _replaced([*stand_ins, *checkpoints]):
        yield
    if missing := sorted(set(range(len(routers))) - ran):
        raise ValueError(f"routers {missing} did not run inside replay(); run the model there, without fused experts")


@contextmanager
def instead(routers: Sequence[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Run ``call(layer, own forward, *its arguments)`` in place of the forward of each of `routers` while entered.

    Only `record` may be entered inside.
    """
    with _replaced(_stand_ins(routers, call, within=True)):
        yield


class _Forced(TorchFunctionMode):
    """Lets topk over `experts` columns return a given choice with the live values there; -1 stays the live choice."""

    def __init__(self, wanted_NK: Tensor, experts: int) -> None:
        super().__init__()
        self._wanted_NK, self._experts = wanted_NK, experts
        self.choice_NK: Tensor | None = None
        self.grouped = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        live = func(*args, **(kwargs or {}))
        if func not in (torch.topk, Tensor.topk):
            return live
        score_NE = args[0] if args else kwargs["input"]
        if score_NE.shape[-1] != self._experts:
            self.grouped = True
            return live
        if live.indices.shape != self._wanted_NK.shape:
            now, then = tuple(live.indices.shape), tuple(self._wanted_NK.shape)
            raise ValueError(f"this pass routes (tokens, choices) {now}, the replayed choices are for {then}")
        wanted_NK = self._wanted_NK.to(score_NE.device)
        self.choice_NK = torch.where(wanted_NK < 0, live.indices, wanted_NK)
        return torch.return_types.topk((score_NE.gather(-1, self.choice_NK), self.choice_NK))


@dataclass(frozen=True, slots=True)
class _Instead:
    """What runs in place of a router's own forward."""

    layer: int
    own: Callable[..., Any]
    call: Callable[..., Any]
    within: bool  # whether others may stand around it

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.call(self.layer, self.own, *args, **named)


_Attributes = Sequence[tuple[nn.Module, str, Any]]


def _stand_ins(
    routers: Sequence[nn.Module], call: Callable[..., Any], *, over: bool = False, within: bool = False
) -> _Attributes:
    """Return what runs in place of the routers' forwards: `over` others that may be `within` them, or of their own."""
    if any(isinstance(r.forward, _Instead) and not (over and r.forward.within) for r in routers):
        raise ValueError("record() and replay() do not nest; leave the outer one first")
    return [(r, "forward", _Instead(layer, r.forward, call, within)) for layer, r in enumerate(routers)]


@contextmanager
def _replaced(attributes: _Attributes) -> Iterator[None]:
    """Give single modules attributes while entered, and back what they had afterwards."""
    before = [(vars(module), name, vars(module).get(name)) for module, name, _ in attributes]
    for module, name, value in attributes:
        vars(module)[name] = value
    try:
        yield
    finally:
        for own, name, value in before:
            if value is None:
                del own[name]
            else:
                own[name] = value


def _within(checkpoint: Callable[..., Any], forwards: _Attributes) -> Callable[..., Any]:
    """Return `checkpoint` such that what it runs, at once and again in the backward pass, has these forwards."""

    def run(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        def again(*args: Any, **named: Any) -> Any:
            with _replaced(forwards):
                return function(*args, **named)

        return checkpoint(again, *args, **named)

    return run


def routers_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules whose first output transformers records as router logits, in the order of layers.

    Raises `UserError` for a model without any.
    """
    recorded: list[Any] = []
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            what = (part._can_record_outputs or {}).get("router_logits", [])
            recorded += what if isinstance(what, list) else [what]
    kinds = {kind.target_class: kind.index for kind in recorded if isinstance(kind, OutputRecorder)}
    routers = [module for module in model.modules() if isinstance(module, tuple(kinds))]
    if not routers:
        raise UserError(f"{type(model).__name__} has no router that transformers records; turn router replay off")
    for router in routers:
        if any(index != 0 for kind, index in kinds.items() if isinstance(router, kind)):
            raise _misfit(router, "does not return (logits, scores, choices)")
    return routers


def experts_of(router: nn.Module) -> int:
    """Return over how many experts a router decides: the rows of its only matrix. Raises `UserError`."""
    matrices = [p for p in router.parameters() if p.dim() == 2 and p.shape[0] > 1]  # a single row is a bias (Ernie)
    if len(matrices) != 1:
        raise _misfit(router, f"has {len(matrices)} weight matrices where one was expected")
    return matrices[0].shape[0]


def chosen_by(out: Any, router: nn.Module) -> Tensor:
    """Return the choices (int64 _N_K) in what a router gave. Raises `UserError`."""
    if isinstance(out, tuple) and len(out) >= 3:
        choice_NK = out[2]
        if isinstance(choice_NK, Tensor) and choice_NK.dim() == 2 and not choice_NK.is_floating_point():
            return choice_NK
    raise _misfit(router, "does not return (logits, scores, choices)")


def _misfit(router: nn.Module, why: str) -> UserError:
    return UserError(f"cannot record or replay routers: {type(router).__name__} {why}; turn router replay off")


def _checked(choices_NLK: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Return recorded choices (int64 _N_K) per layer. Raises `ValueError` unless they fit these many experts."""
    if choices_NLK.dim() != 3 or choices_NLK.is_floating_point() or choices_NLK.shape[1] != len(widths):
        what = f"{choices_NLK.dtype} {tuple(choices_NLK.shape)}"
        raise ValueError(f"replay needs integers (tokens, {len(widths)} MoE layers, choices), not {what}")
    choices = list(choices_NLK.to(torch.int64).unbind(1))
    for layer, (choice_NK, width) in enumerate(zip(choices, widths, strict=True)):
        ordered_NK = choice_NK.sort(-1).values
        distinct_N = (ordered_NK.diff(dim=-1) > 0).all(-1) & (ordered_NK[:, 0] >= 0) & (ordered_NK[:, -1] < width)
        if wrong := torch.nonzero(~(distinct_N | (choice_NK == -1).all(-1))).flatten().tolist():
            raise ValueError(
                f"replayed choices of token {wrong[0]} in MoE layer {layer} are {choice_NK[wrong[0]].tolist()}; "
                f"they must be different experts below {width}, or all -1"
            )
    return choices


def _probabilities(router_logits: Sequence[Tensor], weight_N: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return probabilities _N_E per layer, in the format of the logits as transformers does, and wide weights."""
    if not router_logits or any(logit_NE.shape[0] != len(weight_N) for logit_NE in router_logits):
        shapes = [tuple(logit_NE.shape) for logit_NE in router_logits]
        raise ValueError(f"router logits {shapes} do not have one row for each of {len(weight_N)} weights")
    wide = torch.promote_types(router_logits[0].dtype, torch.float32)
    return [logit_NE.softmax(-1) for logit_NE in router_logits], weight_N.to(wide)
