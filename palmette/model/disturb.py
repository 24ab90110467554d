"""Noise in the routers of mixture-of-experts models, as serving engines have it: experts that flip, tokens dropped.

For experiments: what a fast engine does to a model's log-probs (KAT-Coder-V2 section 3.3.3 names stochastic choice of
experts, capacity dropping and numerics), done to any model on any machine, in any amount.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from palmette.model.routing import chosen_by, experts_of, instead, routers_of


@contextmanager
def disturb(
    model: PreTrainedModel, generator: torch.Generator, *, router_std: float = 0.0, capacity: float = 0.0
) -> Iterator[None]:
    """Let routers err in every forward pass run while entered.

    `router_std`: each token's choice of experts is made with normal noise of this size on the router's logits; the
    weights of the chosen ones stay those of the clean logits. `capacity`: an expert takes at most this many times its
    even share of a pass's tokens, in the order of the pass, and adds nothing to those that come later; 0 is no limit.
    Raises `UserError` for a model without known routers.
    """
    routers = routers_of(model)
    widths = [experts_of(router) for router in routers]

    def call(layer: int, own: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if router_std:
            with _Flipped(generator, router_std, widths[layer]):
                out = own(*args, **named)
        else:
            out = own(*args, **named)
        if not capacity:
            return out
        choice_NK = chosen_by(out, routers[layer])
        room = math.ceil(capacity * choice_NK.numel() / widths[layer])
        return (out[0], _dropped(out[1], choice_NK, widths[layer], room), *out[2:])

    with instead(routers, call):
        yield


class _Flipped(TorchFunctionMode):
    """Lets topk over `experts` columns choose by noisy scores and return the clean values there."""

    def __init__(self, generator: torch.Generator, std: float, experts: int) -> None:
        super().__init__()
        self._generator, self._std, self._experts = generator, std, experts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.topk, Tensor.topk):
            return func(*args, **(kwargs or {}))
        score_NE: Tensor = args[0] if args else kwargs["input"]
        if score_NE.shape[-1] != self._experts:
            return func(*args, **(kwargs or {}))
        noise_NE = torch.randn(score_NE.shape, generator=self._generator).to(score_NE) * self._std
        # Probabilities are exponentials of logits: noise on those multiplies them.
        noisy_NE = score_NE * noise_NE.exp() if bool((score_NE >= 0).all()) else score_NE + noise_NE
        more = {name: value for name, value in (kwargs or {}).items() if name != "input"}
        picked = func(noisy_NE, *args[1:], **more)
        return torch.return_types.topk((score_NE.gather(-1, picked.indices), picked.indices))


def _dropped(score: Tensor, choice_NK: Tensor, experts: int, room: int) -> Tensor:
    """Return the scores (of choices _NK, or of all experts _NE) with 0 for tokens beyond the room of an expert."""
    asked_NE = torch.zeros(len(choice_NK), experts, dtype=torch.long, device=choice_NK.device)
    asked_NE.scatter_(1, choice_NK, 1)
    taken_NE = asked_NE.cumsum(0) <= room
    if score.shape[-1] == experts:
        return score * taken_NE
    return score * taken_NE.gather(1, choice_NK)
