"""Keys and values of prefixes seen before, in blocks, found by token identity and forgotten least recently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from palmette.engine.cache import Slots

BLOCK = 16  # tokens

_Key = tuple[int, tuple[int, ...]]
_ROOT = -1


class PrefixCache:
    """A trie of blocks of `BLOCK` tokens, at most `tokens` tokens in all; a block is known by its parent and its ids.

    Invariant: a block was used at least as recently as each of its children, so the least recently used block is
    always a leaf, and a parent never goes before its children.
    """

    def __init__(self, tokens: int) -> None:
        self._capacity = tokens // BLOCK
        self._pools: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._blocks: dict[_Key, int] = {}
        self._keys: OrderedDict[int, _Key] = OrderedDict()  # block -> its key, least recently used first
        self._free = list(range(self._capacity - 1, -1, -1))
        self._routes: dict[int, np.ndarray] = {}  # of blocks whose experts were recorded

    @property
    def tokens(self) -> int:
        """Tokens held now."""
        return len(self._keys) * BLOCK

    def match(self, token_ids: Sequence[int]) -> tuple[list[int], _Key | None]:
        """Return the blocks that begin `token_ids`, and the key of the first full block that is missing.

        The last token is never matched: its logits are wanted, so it has to go through the model.
        """
        if not self._capacity:
            return [], None
        chain, missing = self._walk(token_ids, (len(token_ids) - 1) // BLOCK)
        self._touch(chain)
        return chain, missing

    def read(self, chain: Sequence[int], slots: Slots, row: int) -> None:
        """Copy the blocks into the beginning of a slot."""
        for layer, pools in self._pools.items():
            for pool, held in zip(pools, slots.layers[layer], strict=True):
                blocks = pool[torch.tensor(chain, device=pool.device)]
                held[row, :, : len(chain) * BLOCK].unflatten(1, (len(chain), BLOCK)).copy_(blocks.transpose(0, 1))

    def routes(self, chain: Sequence[int]) -> list[np.ndarray]:
        """Return the experts _TLK that made the keys and values of these blocks, as `insert` was told."""
        return [self._routes[block] for block in chain]

    def insert(self, token_ids: Sequence[int], slots: Slots, row: int, routes_TLK: np.ndarray | None = None) -> None:
        """Keep the full blocks of `token_ids`, whose keys and values stand in the slot `row`, and their experts."""
        count = min(len(token_ids) // BLOCK, self._capacity)
        chain, _ = self._walk(token_ids, count)
        self._touch(chain)
        known = len(chain)
        for index in range(known, count):
            key = (chain[-1] if chain else _ROOT, tuple(token_ids[index * BLOCK : (index + 1) * BLOCK]))
            chain.append(self._take(key))
        if known < count:
            self._store(chain, known, slots, row)
            if routes_TLK is not None:
                for index in range(known, count):
                    self._routes[chain[index]] = routes_TLK[index * BLOCK : (index + 1) * BLOCK]
            self._touch(chain)

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._keys.clear()
        self._routes.clear()
        self._free = list(range(self._capacity - 1, -1, -1))

    def _walk(self, token_ids: Sequence[int], count: int) -> tuple[list[int], _Key | None]:
        chain: list[int] = []
        for index in range(count):
            key = (chain[-1] if chain else _ROOT, tuple(token_ids[index * BLOCK : (index + 1) * BLOCK]))
            block = self._blocks.get(key)
            if block is None:
                return chain, key
            chain.append(block)
        return chain, None

    def _touch(self, chain: Sequence[int]) -> None:
        for block in reversed(chain):
            self._keys.move_to_end(block)

    def _take(self, key: _Key) -> int:
        if not self._free:
            block, old = self._keys.popitem(last=False)
            del self._blocks[old]
            self._routes.pop(block, None)
            self._free.append(block)
        block = self._free.pop()
        self._blocks[key] = block
        self._keys[block] = key
        return block

    def _store(self, chain: Sequence[int], known: int, slots: Slots, row: int) -> None:
        span = slice(known * BLOCK, len(chain) * BLOCK)
        for layer, pair in slots.layers.items():
            if layer not in self._pools:
                self._pools[layer] = tuple(self._pool(held) for held in pair)  # type: ignore[assignment]
            for pool, held in zip(self._pools[layer], pair, strict=True):
                blocks = held[row, :, span].unflatten(1, (len(chain) - known, BLOCK))
                pool[torch.tensor(chain[known:], device=pool.device)] = blocks.transpose(0, 1)

    def _pool(self, held: torch.Tensor) -> torch.Tensor:
        return held.new_empty(self._capacity, held.shape[1], BLOCK, held.shape[3])
