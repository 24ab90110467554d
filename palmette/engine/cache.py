"""Keys and values of live sequences: one slot a row, all rows in one tensor a layer."""

from __future__ import annotations

import torch

GRAIN = 64  # lengths are rounded up to this many tokens, so that shapes and allocations seldom change


def round_up(tokens: int, grain: int = GRAIN) -> int:
    """Return the smallest multiple of `grain` that is at least `tokens`."""
    return -(-tokens // grain) * grain


class Slots:
    """Per layer a pair of tensors (rows, key heads, capacity, width); layers appear when they first write.

    Live rows are kept dense (0..n-1) by `move`, so that a decoding step reads one slice and gathers nothing.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.capacity = 0
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reserve(self, tokens: int) -> None:
        """Make room for rows of that many tokens; what is held stays."""
        if tokens <= self.capacity:
            return
        self.capacity = round_up(max(tokens, self.capacity * 3 // 2))
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = (_grown(keys, self.capacity), _grown(values, self.capacity))

    def write(
        self,
        layer: int,
        rows_W: torch.Tensor,
        positions_W: torch.Tensor,
        key_KWd: torch.Tensor,
        value_KWd: torch.Tensor,
    ) -> None:
        """Store token w's key and value in row `rows_W[w]` at `positions_W[w]`."""
        if layer not in self.layers:
            self.layers[layer] = (self._empty(key_KWd), self._empty(value_KWd))
        keys, values = self.layers[layer]
        keys[rows_W, :, positions_W] = key_KWd.transpose(0, 1)
        values[rows_W, :, positions_W] = value_KWd.transpose(0, 1)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of row `source` over row `target`."""
        for pair in self.layers.values():
            for held in pair:
                held[target, :, :tokens] = held[source, :, :tokens]

    def token_bytes(self) -> int:
        """Bytes that one token of one row takes over all layers seen so far."""
        return sum(t.shape[1] * t.shape[3] * t.element_size() for pair in self.layers.values() for t in pair)

    def _empty(self, like_KWd: torch.Tensor) -> torch.Tensor:
        # Zeros, because masked positions still enter the products and whatever lay in memory may be NaN.
        return like_KWd.new_zeros(self.rows, like_KWd.shape[0], self.capacity, like_KWd.shape[2])


def _grown(held: torch.Tensor, capacity: int) -> torch.Tensor:
    rows, heads, tokens, width = held.shape
    grown = held.new_zeros(rows, heads, capacity, width)
    grown[:, :, :tokens] = held
    return grown
