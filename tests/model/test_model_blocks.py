"""Attention over blocks and over masks, whole and cut, against plain attention over the dense ancestor matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palmette.model import blocks, dense
from palmette.model.dense import Columns
from palmette.model.relay import Relay, tap
from palmette.model.tree_attention import TreePass, attend
from palmette.trajectory.cut import cut
from palmette.trajectory.layout import BLOCK_PAIRS, Layout, lay_out
from palmette.trajectory.trie import NONE, build

F64 = torch.float64


def forest(seed: int, rows: int = 12, longest: int = 20) -> list[np.ndarray]:
    """Return random sequences of which most go on from somewhere in another."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 9, longest)]
    for _ in range(rows):
        row = found[rng.integers(len(found))] if rng.random() < 0.9 else found[0][:0]
        tail = rng.integers(0, 9, rng.integers(1, longest))
        found.append(np.concatenate([row[: rng.integers(len(row) + 1)], tail]))
    return found


def laid(seed: int, budget: int, block_pairs: int, **shape: int) -> Layout:
    return lay_out(*cut(build(forest(seed, **shape)), budget), block_pairs=block_pairs)


def ancestors(layout: Layout) -> Tensor:
    """Return which token sees which (bool _N_N): itself, and what the token before it sees."""
    seen_NN = torch.eye(len(layout.token_ids_N), dtype=torch.bool)
    for n, source in enumerate(layout.source_N.tolist()):
        if source != NONE:
            seen_NN[n] |= seen_NN[source]
    return seen_NN


def passes(layout: Layout) -> list[TreePass]:
    """Return the passes of all parts, each with a relay."""
    relays = [Relay() for _ in layout.parts]
    return [
        TreePass(
            depth_N=torch.from_numpy(layout.depth_N[part.start : part.end]),
            end_N=torch.from_numpy(layout.end_N[part.start : part.end]),
            squares=part.squares,
            masked=part.masked,
            rectangles=part.rectangles,
            gateways=[(row, end, relays[q], left, right) for row, end, q, left, right in part.gateways],
            gateway_depths=[int(layout.depth_N[layout.parts[q].start + left]) for _, _, q, left, _ in part.gateways],
            relay=relay,
        )
        for part, relay in zip(layout.parts, relays, strict=True)
    ]


def drawn(layout: Layout, heads: int, groups: int, size: int, value_size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return random query, key, value, and gradient of the output (1, heads, N, size)."""
    generator = torch.Generator().manual_seed(0)
    tokens = len(layout.token_ids_N)
    shapes = ((heads, size), (heads // groups, size), (heads // groups, value_size), (heads, value_size))
    return [torch.randn(1, h, tokens, d, generator=generator, dtype=F64).to(dtype) for h, d in shapes]


def plain(layout: Layout, tensors: list[Tensor], **mathematics: Any) -> list[Tensor]:
    """Return output and gradients by softmax over everything an ancestor matrix lets through."""
    query, key, value = (t.to(F64).requires_grad_() for t in tensors[:3])
    groups = query.shape[1] // key.shape[1]
    scale = mathematics.get("scale") or query.shape[-1] ** -0.5
    score_HNN = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scale
    if cap := mathematics.get("softcap"):
        score_HNN = cap * torch.tanh(score_HNN / cap)
    seen_NN = ancestors(layout)
    if window := mathematics.get("window"):
        depth_N = torch.from_numpy(layout.depth_N)
        seen_NN &= depth_N[:, None] - depth_N < window
    weight_HNN = score_HNN.masked_fill(~seen_NN, -torch.inf).exp()
    total_HN1 = weight_HNN.sum(-1, keepdim=True)
    if (sinks := mathematics.get("sinks")) is not None:
        total_HN1 = total_HN1 + sinks.exp().reshape(1, -1, 1, 1)
    out = weight_HNN / total_HN1 @ value.repeat_interleave(groups, 1)
    return [out.detach(), *torch.autograd.grad(out, [query, key, value], tensors[3].to(F64))]


def by_parts(layout: Layout, tensors: list[Tensor], how: Any) -> list[Tensor]:
    """Return the same by attention part by part: all forwards, then all backwards with the last part first."""
    leaves = [t.clone().requires_grad_() for t in tensors[:3]]
    inputs, outs = [], []
    for part, tree in zip(layout.parts, passes(layout), strict=True):
        own = [t.detach()[:, :, part.start : part.end].requires_grad_() for t in leaves]
        inputs.append(own)
        outs.append(how(*own, tree))
    for part, own, out in reversed(list(zip(layout.parts, inputs, outs, strict=True))):
        out.backward(tensors[3][:, :, part.start : part.end])
        assert all(t.grad is not None for t in own)
    gradients = [torch.cat([own[i].grad for own in inputs], 2) for i in range(3)]
    return [torch.cat([out.detach() for out in outs], 2), *gradients]


def by_blocks(query: Tensor, key: Tensor, value: Tensor, tree: TreePass, scale: float | None = None) -> Tensor:
    assert tree.relay is not None
    key, value = tap(key, value, tree.relay, 3)
    return blocks.attend(query, key, value, tree.as_blocks(query.dtype), layer=3, scale=scale)


def by_mask(query: Tensor, key: Tensor, value: Tensor, tree: TreePass, **mathematics: Any) -> Tensor:
    assert tree.relay is not None
    key, value = tap(key, value, tree.relay, 3)
    return dense.attend(query, key, value, tree, layer=3, **mathematics)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("budget", [10**6, 40, 9, 1])
def test_blocks_and_masks_equal_plain_attention(budget: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, (block_pairs, grain) in enumerate([(0, 4), (30, 256), (10**6, 1)]):
        monkeypatch.setattr(blocks, "_GRAIN", grain)  # so small that squares are halved
        layout = laid(seed, budget, block_pairs)
        assert (len(layout.parts) > 1) == (budget < 100)
        tensors = drawn(layout, 4, groups, 8, 8, F64)
        scale = None if seed else 0.7
        expected = plain(layout, tensors, scale=scale)
        for how in (by_blocks, by_mask):
            got = by_parts(layout, tensors, lambda q, k, v, t, how=how, scale=scale: how(q, k, v, t, scale=scale))
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("budget", [10**6, 9])
def test_windows_caps_and_sinks(budget: int) -> None:
    layout = laid(5, budget, 30)
    tensors = drawn(layout, 4, 2, 8, 8, F64)
    sinks = torch.tensor([-1.0, 0.5, 2.0, 4.0], dtype=F64)
    for mathematics in (
        {"window": 1},
        {"window": 6},
        {"softcap": 1.5},
        {"sinks": sinks},
        {"window": 5, "softcap": 2.0, "sinks": sinks, "scale": 0.4},
    ):
        expected = plain(layout, tensors, **mathematics)
        got = by_parts(layout, tensors, lambda *given, mathematics=mathematics: by_mask(*given, **mathematics))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("value_size", [4, 8, 12])
def test_values_narrower_and_wider_than_keys(value_size: int) -> None:
    """As in DeepSeek-V3: the kernel wants one size."""
    module = nn.Module()
    module.layer_idx = 3  # pyright: ignore[reportArgumentType]
    layout = laid(6, 30, 30)
    tensors = drawn(layout, 4, 2, 8, value_size, F64)

    def whole(query: Tensor, key: Tensor, value: Tensor, tree: TreePass) -> Tensor:
        return attend(module, query, key, value, None, tree=tree)[0].transpose(1, 2)

    for a, b in zip(by_parts(layout, tensors, whole), plain(layout, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rounding_of_long_blocks(dtype: torch.dtype, bound: float) -> None:
    """Blocks so long that the kernel's own thresholds decide; gradients of gateways add up in fp32."""
    for budget in (10**6, 600):
        layout = laid(7, budget, BLOCK_PAIRS, rows=3, longest=700)
        tensors = drawn(layout, 2, 2, 16, 16, dtype)
        for got, expected in zip(by_parts(layout, tensors, by_blocks), plain(layout, tensors), strict=True):
            assert got.dtype == dtype
            assert float((got.to(F64) - expected).norm() / expected.norm()) < bound


@pytest.mark.parametrize("budget", [10**6, 25, 6])
def test_the_mask_of_columns_is_the_ancestor_matrix(budget: int) -> None:
    """Which is all that block masks on CUDA know."""
    layout = laid(8, budget, 30)
    seen_NN = ancestors(layout)
    depth_N = torch.from_numpy(layout.depth_N)
    for part, tree in zip(layout.parts, passes(layout), strict=True):
        runs = [(layout.parts[q].start + left, layout.parts[q].start + right) for _, _, q, left, right in part.gateways]
        place_M = torch.cat([*(torch.arange(a, b) for a, b in runs), torch.arange(part.start, part.end)])
        columns = Columns.of(tree.end_N, tree.depth_N, tree.gateways, tree.gateway_depths)
        assert torch.equal(columns.depth_M, depth_N[place_M])
        for window in (None, 1, 4):
            mask_nM = columns.mask(tree.depth_N, window)
            assert torch.equal(mask_nM, tree.mask(window))
            near_nM = tree.depth_N[:, None] - depth_N[place_M] < (window or 10**6)
            for column, place in enumerate(place_M.tolist()):  # a token may be there for several groups of rows
                own = seen_NN[part.start : part.end, place] & near_nM[:, column]
                assert not (mask_nM[:, column] & ~own).any()
            got_nN = torch.zeros(part.num_tokens, len(seen_NN), dtype=torch.int64)
            got_nN.index_add_(1, place_M, mask_nM.long())
            expected_nN = seen_NN[part.start : part.end].clone()
            if window:
                expected_nN &= tree.depth_N[:, None] - depth_N < window
            assert torch.equal(got_nN, expected_nN.long())  # each once


def test_relays_add_and_forget() -> None:
    relay = Relay()
    key, value = torch.ones(1, 1, 4, 2, dtype=torch.bfloat16), torch.zeros(1, 1, 4, 2, dtype=torch.bfloat16)
    relay.keep(0, key, value)
    assert relay.take(0) is None
    tiny = torch.full((1, 1, 2, 2), 2.0**-9)
    for _ in range(2**9):
        relay.add(0, 1, 3, tiny, -tiny)
    back = relay.take(0)
    assert back is not None
    assert back[0][0, 0, :, 0].tolist() == [0, 1, 1, 0]  # in bf16 the sum would stop growing
    assert back[1][0, 0, :, 1].tolist() == [0, -1, -1, 0]
    assert relay.take(0) is None
