"""Differentiable gateways: the keys and values that parts of a cut tree show to the parts below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class Relay:
    """One part's keys and values of every layer, without copies, and the gradients that come back for them.

    The forward pass of the part keeps them; parts below read columns and, in their backward passes, add gradients in
    fp32 (or the tensors' own wider format); the backward pass of the part takes the sums at the very layer they
    belong to. All tensors are (1, kv heads, tokens, head size).
    """

    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _back: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Remember the part's own keys and values of a layer."""
        self._kept[layer] = (key.detach(), value.detach())

    def columns(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the part's tokens `start:end`."""
        key, value = self._kept[layer]
        return key[:, :, start:end], value[:, :, start:end]

    def add(self, layer: int, start: int, end: int, key_grad: Tensor, value_grad: Tensor) -> None:
        """Add gradients of tokens `start:end`."""
        if layer not in self._back:
            key, value = self._kept[layer]
            self._back[layer] = (_zeros(key), _zeros(value))
        for total, grad in zip(self._back[layer], (key_grad, value_grad), strict=True):
            total[:, :, start:end] += grad

    def take(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return and forget the gradients of a layer, None if nothing came back."""
        return self._back.pop(layer, None)


Gateways = Sequence[tuple[int, int, Relay, int, int]]  # row, row end, whose columns, column, column end


def tap(key: Tensor, value: Tensor, relay: Relay, layer: int) -> tuple[Tensor, Tensor]:
    """Return both as they are, kept in `relay`; what comes back there is added to their gradients."""
    return _Tap.apply(key, value, relay, layer)  # pyright: ignore[reportReturnType]


def extended(key: Tensor, value: Tensor, gateways: Gateways, layer: int) -> tuple[Tensor, Tensor]:
    """Return keys and values with the columns of all gateways before them."""
    return _Extended.apply(key, value, gateways, layer) if gateways else (key, value)  # pyright: ignore[reportReturnType]


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, relay: Relay, layer: int) -> tuple[Tensor, Tensor]:
        relay.keep(layer, key, value)
        ctx.back = relay, layer
        return key.view_as(key), value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        relay, layer = ctx.back
        back = relay.take(layer)
        if back is None:
            return *grads, None, None
        return *((total + grad).to(grad.dtype) for total, grad in zip(back, grads, strict=True)), None, None


class _Extended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, gateways: Gateways, layer: int) -> tuple[Tensor, Tensor]:
        ctx.back = gateways, layer
        columns = [relay.columns(layer, start, end) for _, _, relay, start, end in gateways]
        return torch.cat([*(k for k, _ in columns), key], 2), torch.cat([*(v for _, v in columns), value], 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gateways, layer = ctx.back
        at = 0
        for _, _, relay, start, end in gateways:
            key_grad, value_grad = (grad[:, :, at : at + end - start] for grad in grads)
            relay.add(layer, start, end, key_grad, value_grad)
            at += end - start
        return *(grad[:, :, at:] for grad in grads), None, None


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
