"""The training forward pass: log-probs of the edges a pass asks about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palmette.model.routing import replay
from palmette.train.pack import Pass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from palmette.model.tree_attention import TreePass


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a forward pass says about the edges E it was asked about."""

    logprob_E: Tensor  # natural logs, with gradient
    entropy_E: Tensor | None  # of each prediction in nats, without gradient; None if not asked for
    router_logits: tuple[Tensor, ...]  # (B x N, experts) of each layer with experts; empty if not asked for
    also_EK: Tensor | None = None  # log-probs of other targets, with gradient
    top_EK: Tensor | None = None  # the likeliest targets, int64


def ask(
    model: PreTrainedModel,
    asked: Pass,
    tree: TreePass | None = None,
    *,
    entropy: bool = False,
    routers: bool = False,
    also_EK: Tensor | None = None,
    top: int = 0,
) -> Answer:
    """Run the model over the tokens of `asked` and return log p(target | source and what is before it) of its edges.

    The output head runs only on the positions that predict something, which is most of the memory of a model with a
    large vocabulary. Padding is on the right, so causal attention needs no mask. Recorded routes are replayed.
    `also_EK` are further targets of each edge's source, `top` asks for that many of the likeliest.
    """
    more: dict[str, Any] = {"tree": tree} if tree is not None else {}
    if routers:
        more["output_router_logits"] = True
    replayed = replay(model, asked.route_NLK) if asked.route_NLK is not None else nullcontext()
    with _head_on(model, asked.source_E), replayed:
        out = model(input_ids=asked.token_ids_BN, position_ids=asked.position_BN, use_cache=False, **more)
    logits_EV = out.logits.reshape(-1, out.logits.shape[-1])
    if logits_EV.dtype in (torch.float16, torch.bfloat16):
        logits_EV = logits_EV.float()
    return Answer(
        logprob_E=-F.cross_entropy(logits_EV, asked.target_E, reduction="none"),
        entropy_E=_entropy(logits_EV) if entropy else None,
        router_logits=tuple(out.router_logits) if routers else (),
        also_EK=None if also_EK is None else F.log_softmax(logits_EV, dim=-1).gather(1, also_EK),
        top_EK=logits_EV.detach().topk(min(top, logits_EV.shape[-1]), dim=-1).indices if top else None,
    )


@contextmanager
def _head_on(model: PreTrainedModel, source_E: Tensor) -> Iterator[None]:
    """Let the output head see only the hidden states at `source_E`, as one row (1, E, hidden).

    Models scale or cap logits element by element after the head, so this holds for any of them.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ValueError(f"{type(model).__name__} has no output head")

    def select(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, source_E).unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _entropy(logits_EV: Tensor) -> Tensor:
    logp_EV = F.log_softmax(logits_EV, dim=-1)
    return -(logp_EV.exp() * logp_EV).sum(-1)
