"""Attention of many sequences packed in one forward pass, over keys and values held in slots.

One pass carries the newest token of every decoding row followed by whole spans of new rows, so a model sees a single
sequence of N tokens and everything but attention runs at full batch. The function is offered to transformers under
`NAME`; a model that uses it still answers ordinary forward passes (they fall back to SDPA).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from palmette.engine.cache import Slots

NAME = "palmette_slots"

# What a model may hand to attention without changing its mathematics; anything else that is set is refused.
_HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_router_logits"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Consecutive tokens `start:end` of the pack that continue one sequence of which `offset` tokens are cached.

    `row` is the slot they are written to; None for a sequence that stands alone in the pack (`offset` is then 0).
    """

    start: int
    end: int
    offset: int = 0
    row: int | None = None


@dataclass(slots=True, kw_only=True)
class Plan:
    """What one forward pass does; its first `decoding` tokens are one token each of the rows 0, 1, 2 ...

    `rows_W` and `positions_W` say where the first W tokens of the pack are written. `windows` collects the window
    each layer asked for.
    """

    slots: Slots
    decoding: int
    spans: tuple[Span, ...]
    rows_W: torch.Tensor
    positions_W: torch.Tensor
    key_len: int = 0  # longest decoding row, rounded up; all decoding rows attend over that many keys
    windows: dict[int, int | None] = field(default_factory=dict)
    _masks: dict[Any, torch.Tensor | None] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query_HNd: torch.Tensor,
        key_KNd: torch.Tensor,
        value_KNd: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Write the pack's keys and values and return the attention output, shape (N, H, d)."""
        self.windows[layer] = window
        written = self.rows_W.shape[0]
        if written:
            self.slots.write(layer, self.rows_W, self.positions_W, key_KNd[:, :written], value_KNd[:, :written])
        parts = [self._decode(layer, query_HNd[:, : self.decoding], scale, window)] if self.decoding else []
        for span in self.spans:
            parts.append(self._extend(layer, span, query_HNd, key_KNd, value_KNd, scale, window))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, layer: int, query_HRd: torch.Tensor, scale: float | None, window: int | None) -> torch.Tensor:
        keys, values = self.slots.layers[layer]
        keys, values = keys[: self.decoding, :, : self.key_len], values[: self.decoding, :, : self.key_len]
        if (window, keys.dtype) not in self._masks:
            self._masks[window, keys.dtype] = self._decode_mask(window, keys.dtype)
        heads, rows, width = query_HRd.shape
        # The heads that share a key head stand in the query axis, so nothing is repeated.
        query = query_HRd.transpose(0, 1).reshape(rows, keys.shape[1], -1, width)
        mask = self._masks[window, keys.dtype]
        out = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        return out.reshape(rows, heads, -1)

    def _decode_mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        last = self.positions_W[: self.decoding, None]
        at = torch.arange(self.key_len, device=last.device)
        seen = at <= last
        if window is not None:
            seen &= at > last - window
        zero = torch.zeros((), dtype=dtype, device=last.device)
        return torch.where(seen, zero, float("-inf"))[:, None, None]

    def _extend(
        self,
        layer: int,
        span: Span,
        query_HNd: torch.Tensor,
        key_KNd: torch.Tensor,
        value_KNd: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        query, end = query_HNd[None, :, span.start : span.end], span.offset + span.end - span.start
        if span.offset == 0:
            keys, values = key_KNd[None, :, span.start : span.end], value_KNd[None, :, span.start : span.end]
        else:
            assert span.row is not None
            keys, values = self.slots.layers[layer]
            keys, values = keys[span.row : span.row + 1, :, :end], values[span.row : span.row + 1, :, :end]
        if (span, window) not in self._masks:
            self._masks[span, window] = _span_mask(span, window, query.device)
        mask, shared = self._masks[span, window], query.shape[1] // keys.shape[1]
        if shared > 1 and mask is not None:  # with a mask, SDPA's own grouping falls back to its slowest kernel
            keys, values = repeat_kv(keys, shared), repeat_kv(values, shared)
        out = scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and span.end - span.start > 1,
            scale=scale,
            enable_gqa=shared > 1 and mask is None,
        )
        return out[0].transpose(0, 1)


def _span_mask(span: Span, window: int | None, device: torch.device) -> torch.Tensor | None:
    """None where plain causality (or, for a single token, no mask at all) says the same."""
    new, end = span.end - span.start, span.offset + span.end - span.start
    inside = window is None or end <= window
    if inside and (span.offset == 0 or new == 1):
        return None
    at_query = torch.arange(span.offset, end, device=device)[:, None]
    at_key = torch.arange(end, device=device)
    seen = at_key <= at_query
    return seen if window is None else seen & (at_key > at_query - window)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    plan: Plan | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls; (1, H, N, d) in, (1, N, H, d) out."""
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    strange = [name for name, value in options.items() if name not in _HARMLESS and value is not None]
    if strange:
        raise NotImplementedError(f"attention with {', '.join(sorted(strange))}")
    layer: Any = module.layer_idx
    return plan.attend(layer, query[0], key[0], value[0], scaling, sliding_window)[None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
