"""The prefix cache against a plain dictionary of everything it was given."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.engine.cache import Slots
from palmette.engine.prefix import BLOCK, PrefixCache


def _fill(slots: Slots, row: int, ids: list[int]) -> None:
    """Write keys that are a function of the whole prefix, as a model's are."""
    marks = [hash(tuple(ids[: t + 1])) % 1_000_003 for t in range(len(ids))]
    values = torch.tensor(marks, dtype=torch.float64).expand(2, -1)[..., None]
    rows, positions = torch.full((len(ids),), row), torch.arange(len(ids))
    slots.reserve(len(ids))
    for layer in range(2):
        slots.write(layer, rows, positions, values + layer, -values - layer)


_SEQUENCES = st.lists(
    st.lists(st.sampled_from([[0], [1], [0] * BLOCK, [1] * BLOCK, [0, 1] * BLOCK]), max_size=6).map(
        lambda parts: [token for part in parts for token in part]
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(sequences=_SEQUENCES, blocks=st.integers(0, 12))
def test_what_is_found_is_what_was_stored(sequences: list[list[int]], blocks: int) -> None:
    """Matches are true prefixes with their own keys, the budget holds, and with room enough nothing is missed."""
    cache, slots = PrefixCache(blocks * BLOCK + 5), Slots(3)
    stored: set[tuple[int, ...]] = set()
    for ids in sequences:
        chain, _ = cache.match(ids)
        length = len(chain) * BLOCK
        assert length < max(len(ids), 1)
        assert length == 0 or tuple(ids[:length]) in stored
        best = max((n for n in range(0, len(ids), BLOCK) if n == 0 or tuple(ids[:n]) in stored), default=0)
        if len(stored) <= blocks:
            assert length == best
        if chain:
            _fill(slots, 1, ids)
            expected = [[held[1, :, :length].clone() for held in pair] for pair in slots.layers.values()]
            for pair in slots.layers.values():
                for held in pair:
                    held[1].zero_()
            cache.read(chain, slots, 1)
            for pair, wanted in zip(slots.layers.values(), expected, strict=True):
                for held, want in zip(pair, wanted, strict=True):
                    assert torch.equal(held[1, :, :length], want)
        if ids:
            _fill(slots, 2, ids)
        cache.insert(ids, slots, 2)
        stored |= {tuple(ids[:n]) for n in range(BLOCK, len(ids) + 1, BLOCK)}
        assert cache.tokens <= blocks * BLOCK
        if blocks and len(ids) <= blocks * BLOCK and len(ids) % BLOCK:
            assert len(cache.match(ids)[0]) == len(ids) // BLOCK  # the newest is held whole
    cache.clear()
    assert cache.tokens == 0
    assert all(cache.match(ids)[0] == [] for ids in sequences)


def test_the_least_recently_used_goes_first() -> None:
    cache, slots = PrefixCache(3 * BLOCK), Slots(1)
    one, two, three = ([k] * (BLOCK + 1) for k in (1, 2, 3))
    for ids in (one, two, three):
        _fill(slots, 0, ids)
        cache.insert(ids, slots, 0)
    cache.match(one)
    _fill(slots, 0, four := [4] * (BLOCK + 1))
    cache.insert(four, slots, 0)
    assert [len(cache.match(ids)[0]) for ids in (one, two, three, four)] == [1, 0, 1, 1]
