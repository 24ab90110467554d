"""Attention over a tree of tokens, for any decoder that takes its attention from transformers' `AttentionInterface`.

A forward pass gets the unique tokens of a tree as one row, their depths as `position_ids`, and a `TreePass` as the
keyword argument `tree`, which transformers hands through to every attention layer::

    with tree_attention(model):
        model(input_ids=ids_1N, position_ids=depth_1N, tree=tree_pass, use_cache=False)

On the CPU each layer runs as dense blocks (`palmette.model.blocks`); soft-capped scores, attention sinks and sliding
windows that some token reaches the edge of run over a dense mask (`palmette.model.dense`), and so does CUDA over block
masks (`palmette.model.flex`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from palmette.errors import UserError
from palmette.model import blocks, dense, flex
from palmette.model.decoder import odd_window, other_state
from palmette.model.relay import Relay, tap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "palmette_tree"

# What a model may hand to attention without changing its mathematics; anything else that is set is refused.
_HARMLESS = {"is_causal", "position_ids", "use_cache", "output_attentions", "output_router_logits", "cache_position"}
_WAY_OUT = "set train.tree = off"
_LOG = logging.getLogger("palmette.tree")


@dataclass(slots=True, kw_only=True)
class TreePass:
    """What one forward pass over N unique tokens must know; rows and columns count its tokens.

    Token i sees token j of the pass iff j <= i < end_j, and whole runs of columns of parts above through `gateways`
    (row, row end, relay, column, column end). `relay` is where parts below will look for this pass's keys. `windows`
    collects the sliding window that each layer asked for.
    """

    depth_N: Tensor  # int64
    end_N: Tensor  # int64
    squares: Sequence[tuple[int, int]]
    masked: Sequence[tuple[int, int]] = ()
    rectangles: Sequence[tuple[int, int, int, int]] = ()
    gateways: Sequence[tuple[int, int, Relay, int, int]] = ()
    gateway_depths: Sequence[int] = ()  # of the first column of each gateway; the others follow
    relay: Relay | None = None
    windows: dict[int, int | None] = field(default_factory=dict)
    _made: dict[Any, Any] = field(default_factory=dict)

    def as_blocks(self, dtype: torch.dtype) -> blocks.Blocks:
        """Return the pass as blocks for the CPU."""
        return self.cached(("blocks", dtype), lambda: self._as_blocks().halved(dtype))

    def columns(self) -> dense.Columns:
        """Return for every column, those of gateways first, which rows see it and its depth."""
        return self.cached(
            "columns", lambda: dense.Columns.of(self.end_N, self.depth_N, self.gateways, self.gateway_depths)
        )

    def mask(self, window: int | None) -> Tensor:
        """Return who sees whom (bool, rows by all columns), within `window` tokens of depth if given."""
        return self.cached(("mask", window), lambda: self.columns().mask(self.depth_N, window))

    def cached(self, what: Any, make: Callable[[], Any]) -> Any:
        """Return what was made under this name, made now if it was not: all layers of a pass share it."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def reaches(self, window: int | None) -> bool:
        """Whether some token is so deep that a sliding window hides another from it."""
        return window is not None and int(self.depth_N.max()) >= window

    def _as_blocks(self) -> blocks.Blocks:
        masked = []
        for start, end in self.masked:
            row_n = torch.arange(end - start)
            hidden = (row_n.unsqueeze(1) < row_n) | (row_n.unsqueeze(1) >= self.end_N[start:end] - start)
            masked.append((start, end, torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))))
        return blocks.Blocks(squares=self.squares, masked=masked, rectangles=self.rectangles, gateways=self.gateways)


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let `model` attend over trees while entered; forward passes without `tree` are refused meanwhile.

    Raises `UserError` for a model that keeps other state than keys and values.
    """
    if other := other_state(model):
        raise UserError(f"{type(model).__name__} {other}, which cannot be trained as a tree: {_WAY_OUT}")
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def check_pass(model: PreTrainedModel, tree: TreePass) -> None:
    """Raise `UserError` unless every layer of `model` attended in the pass, over the window it is configured for."""
    if odd := odd_window(model, tree.windows):
        raise UserError(f"{odd}, so it cannot be trained as a tree: {_WAY_OUT}")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    tree: TreePass | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attend over a tree; the function transformers calls. Shapes (1, heads, N, size) in, (1, N, heads, size) out."""
    if tree is None:
        raise ValueError("a model in tree attention needs the keyword argument tree=TreePass(...)")
    if dropout or attention_mask is not None:
        raise ValueError("tree attention is exact: no dropout, and no mask but the tree")
    if odd := sorted(name for name, given in rest.items() if given is not None and name not in _HARMLESS):
        raise ValueError(f"tree attention does not know what {', '.join(odd)} of {type(module).__name__} means")
    layer = int(module.layer_idx)  # pyright: ignore[reportArgumentType]
    tree.windows[layer] = sliding_window
    window = sliding_window if tree.reaches(sliding_window) else None
    size = value.shape[-1]
    extra = size - query.shape[-1]
    if extra < 0 and query.device.type == "cpu":
        value = F.pad(value, (0, -extra))  # the kernel wants one head size, also of what parts below find in the relay
    if tree.relay is not None:
        key, value = tap(key, value, tree.relay, layer)
    if why := _needs_mask(window, softcap, s_aux, extra):
        _LOG.debug("layer %d attends over a dense mask: %s", layer, why)
        mathematics = {"scale": scaling, "window": window, "softcap": softcap, "sinks": s_aux}
        out = dense.attend(query, key, value, tree, layer=layer, **mathematics)
    elif query.device.type == "cpu":
        out = blocks.attend(query, key, value, tree.as_blocks(query.dtype), layer=layer, scale=scaling)
    else:
        out = flex.attend(query, key, value, tree, layer=layer, scale=scaling)
    return out[..., :size].transpose(1, 2), None


def _needs_mask(window: int | None, softcap: float | None, sinks: Tensor | None, extra: int) -> str:
    """Return what keeps a layer from running as blocks, empty if nothing does."""
    reasons = {
        "a sliding window": window is not None,
        "soft-capped scores": softcap is not None,
        "attention sinks": sinks is not None,
        "values wider than keys": extra > 0,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_args, **_named: None)
