"""Tree attention over a dense mask: for what blocks cannot do, and the obvious thing to compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from palmette.model.relay import Gateways, extended

if TYPE_CHECKING:
    from palmette.model.tree_attention import TreePass


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Per column M, those of gateways before those of the pass itself: which rows see it, and how deep it lies."""

    first_M: Tensor
    end_M: Tensor
    depth_M: Tensor

    @classmethod
    def of(cls, end_N: Tensor, depth_N: Tensor, gateways: Gateways, depths: Sequence[int]) -> Columns:
        """Put the columns of gateways, whose first depths are given, and of the pass in a row."""
        own_N = torch.arange(len(end_N), device=end_N.device)
        first, ends, depth = [], [], []
        for (row, row_end, _, start, end), deep in zip(gateways, depths, strict=True):
            run = torch.arange(end - start, device=end_N.device)
            first.append(torch.full_like(run, row))
            ends.append(torch.full_like(run, row_end))
            depth.append(run + deep)
        return cls(
            first_M=torch.cat([*first, own_N]), end_M=torch.cat([*ends, end_N]), depth_M=torch.cat([*depth, depth_N])
        )

    def mask(self, depth_N: Tensor, window: int | None = None) -> Tensor:
        """Return which row sees which column (bool _N_M), none that is `window` or more tokens above if given."""
        row_N1 = torch.arange(len(depth_N), device=depth_N.device).unsqueeze(1)
        seen_NM = (self.first_M <= row_N1) & (row_N1 < self.end_M)
        return seen_NM if window is None else seen_NM & (depth_N.unsqueeze(1) - self.depth_M < window)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: TreePass,
    *,
    layer: int,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return attention (1, H, N, D) with plain autograd.

    `softcap` c replaces scores s by c tanh(s / c) (Gemma 2); `sinks` _H is one more logit in each softmax, which takes
    its share and gives nothing (GPT-OSS).
    """
    key, value = extended(key, value, tree.gateways, layer)
    seen_NM = tree.mask(window)
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen_NM, scale=scale, enable_gqa=True)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    score_HNM = query @ key.transpose(2, 3) * (scale if scale is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        score_HNM = softcap * torch.tanh(score_HNM / softcap)
    score_HNM = score_HNM.masked_fill(~seen_NM, float("-inf"))
    if sinks is not None:
        sink_HN1 = sinks.to(score_HNM.dtype).reshape(1, -1, 1, 1).expand(*score_HNM.shape[:3], 1)
        score_HNM = torch.cat([score_HNM, sink_HN1], -1)
    wide = torch.promote_types(score_HNM.dtype, torch.float32)
    share_HNM = score_HNM.softmax(-1, dtype=wide)[..., : key.shape[2]].to(value.dtype)
    return share_HNM @ value
