"""Exact attention over a list of dense blocks, merged by log-sum-exp; no mask over all tokens is ever made.

Forward, for a row whose blocks have outputs O, o and log-sum-exps L, l:  m = logaddexp(L, l),
O <- O e^(L-m) + o e^(l-m). Backward: each block's own flash backward, given the *final* output and log-sum-exp, yields
its exact share of the gradients, so shares simply add (FlashAttention-2, arXiv 2307.08691, section 3.1, blockwise).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palmette.model.relay import Relay

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_GRAIN = 256  # the CPU kernel computes the masked half of a causal square up to about this size (docs/log.md)
_SHORT_ROWS = 512  # below it the kernel's backward pass is slower in bf16 than in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Which rows see which columns. Every row lies in exactly one square, causal or masked (additive mask _n_n)."""

    squares: Sequence[tuple[int, int]]  # row, row end
    masked: Sequence[tuple[int, int, Tensor]]
    rectangles: Sequence[tuple[int, int, int, int]]  # row, row end, column, column end
    gateways: Sequence[tuple[int, int, Relay, int, int]] = ()  # columns of another part

    def halved(self, dtype: torch.dtype) -> Blocks:
        """Return the same with causal squares as two halves and a rectangle, again and again, while that is faster."""
        squares: list[tuple[int, int]] = []
        rectangles = list(self.rectangles)
        waiting = list(self.squares)
        while waiting:
            start, end = waiting.pop()
            if end - start <= _GRAIN or (end - start > _SHORT_ROWS and dtype.itemsize == 2):
                squares.append((start, end))
                continue
            middle = (start + end) // 2
            waiting += [(start, middle), (middle, end)]
            rectangles.append((middle, end, start, middle))
        return Blocks(squares=squares, masked=self.masked, rectangles=rectangles, gateways=self.gateways)


def attend(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, *, layer: int, scale: float | None) -> Tensor:
    """Return attention (1, H, N, D) of `query` (1, H, N, D) over `key` and `value` (1, H / groups, N, D); CPU only."""
    return _BlockAttention.apply(query, key, value, blocks, layer, scale)  # pyright: ignore[reportReturnType]


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, layer: int, scale: float | None
    ) -> Tensor:
        batch, heads, length, size = query.shape
        wide = torch.promote_types(query.dtype, torch.float32)
        out = torch.empty(batch, length, heads, size, dtype=wide).transpose(1, 2)
        lse = torch.empty(batch, heads, length, dtype=wide)
        for start, end, mask in _squares(blocks, query.dtype):
            block = (t[:, :, start:end] for t in (query, key, value))
            out[:, :, start:end], lse[:, :, start:end] = _forward(
                *block, 0.0, mask is None, attn_mask=mask, scale=scale
            )
        for start, end, left, right in blocks.rectangles:
            columns = key[:, :, left:right], value[:, :, left:right]
            part = _forward(query[:, :, start:end], *columns, 0.0, False, scale=scale)
            _merge(out[:, :, start:end], lse[:, :, start:end], *part)
        for start, end, relay, left, right in blocks.gateways:
            part = _forward(query[:, :, start:end], *relay.columns(layer, left, right), 0.0, False, scale=scale)
            _merge(out[:, :, start:end], lse[:, :, start:end], *part)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.rest = blocks, layer, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, out, lse = ctx.saved_tensors
        blocks, layer, scale = ctx.rest
        query_grad, key_grad, value_grad = (torch.empty_like(t, dtype=lse.dtype) for t in (query, key, value))

        def rows(start: int, end: int) -> tuple[Tensor, ...]:
            return tuple(t[:, :, start:end] for t in (grad, query, out, lse))

        for start, end, mask in _squares(blocks, query.dtype):
            columns = key[:, :, start:end], value[:, :, start:end]
            shares = _shares(rows(start, end), columns, scale, mask, causal=mask is None)
            for total, share in zip((query_grad, key_grad, value_grad), shares, strict=True):
                total[:, :, start:end] = share
        for start, end, left, right in blocks.rectangles:
            columns = key[:, :, left:right], value[:, :, left:right]
            query_share, key_share, value_share = _shares(rows(start, end), columns, scale)
            query_grad[:, :, start:end] += query_share
            key_grad[:, :, left:right] += key_share
            value_grad[:, :, left:right] += value_share
        for start, end, relay, left, right in blocks.gateways:
            query_share, *shares = _shares(rows(start, end), relay.columns(layer, left, right), scale)
            query_grad[:, :, start:end] += query_share
            relay.add(layer, left, right, *shares)
        return query_grad.to(query.dtype), key_grad.to(key.dtype), value_grad.to(value.dtype), None, None, None


def _shares(
    rows: tuple[Tensor, ...],
    columns: tuple[Tensor, Tensor],
    scale: float | None,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's gradients of query rows, keys and values; `rows` are grad, query, output, log-sum-exp."""
    grad, query, out, lse = rows
    dtype = query.dtype if query.shape[2] >= _SHORT_ROWS else lse.dtype
    key, value = columns
    mask = mask.to(dtype) if mask is not None else None
    sides = (t.to(dtype) for t in (grad, query, key, value, out))
    return _backward(*sides, lse, 0.0, causal, attn_mask=mask, scale=scale)


def _squares(blocks: Blocks, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor | None]]:
    for start, end in blocks.squares:
        yield start, end, None
    for start, end, mask in blocks.masked:
        yield start, end, mask.to(dtype)


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Fold a block's output into that of the same rows, in place."""
    both = torch.logaddexp(lse, part_lse)
    out.mul_((lse - both).exp_().unsqueeze(-1)).addcmul_(part.to(out.dtype), (part_lse - both).exp_().unsqueeze(-1))
    lse.copy_(both)
