"""Sequences of tokens that share prefixes in every way they can."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

# Two kinds of token and short runs share much; the others cross the borders of bytes, which sorting must not mind.
_token = st.sampled_from([0, 1, 255, 256, 65_536, 151_935])
_fresh = st.lists(st.integers(0, 1), max_size=9) | st.lists(_token, max_size=4)


@st.composite
def _forests(draw: st.DrawFn) -> list[list[int]]:
    """Draw sequences of which some are duplicates, prefixes or continuations of others, in any order."""
    rows = draw(st.lists(_fresh, max_size=7))
    for _ in range(draw(st.integers(0, 4)) if rows else 0):
        row = draw(st.sampled_from(rows))
        rows.append(row[: draw(st.integers(0, len(row)))] + draw(st.just([]) | _fresh))
    return draw(st.permutations(rows))


@pytest.fixture(scope="session")
def forests() -> st.SearchStrategy[list[list[int]]]:
    return _forests()
