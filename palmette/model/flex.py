"""Tree attention on CUDA: FlexAttention over a block mask made of two numbers a column.

Never run: no GPU was at hand when this was written. The self-check of a run compares it with flat training.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from palmette.model.relay import extended

if TYPE_CHECKING:
    from palmette.model.tree_attention import TreePass


def attend(query: Tensor, key: Tensor, value: Tensor, tree: TreePass, *, layer: int, scale: float | None) -> Tensor:
    """Return attention (1, H, N, D); the block mask is made once a pass and used by every layer."""
    key, value = extended(key, value, tree.gateways, layer)
    mask = tree.cached("flex", lambda: _block_mask(tree))
    return _compiled()(query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])


def _block_mask(tree: TreePass) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    columns = tree.columns()
    first_M, end_M = columns.first_M, columns.end_M

    def seen(_batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (first_M[column] <= row) & (row < end_M[column])

    return create_block_mask(seen, None, None, len(tree.depth_N), len(first_M), device=first_M.device)


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
