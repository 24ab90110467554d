"""Names that no split shares: pronounceable invented words, one half-open world for training and one for held-out.

A word belongs to the held-out split when the sum of its syllable numbers is divisible by five, so both splits draw from
the same sounds, neither can contain a word of the other, and a policy has to copy names rather than know them.
"""

from __future__ import annotations

import random

from palmette.envs.api import Split

_SYLLABLES = tuple(c + v for c in "bdfgjklmnprstvz" for v in "aeiou")
_ENDINGS = ("", "", "n", "r", "s", "k", "l")
_HELDOUT_EVERY = 5


def word(rng: random.Random, split: Split, *, taken: set[str] | None = None) -> str:
    """Return an invented word of two or three syllables of `split`.

    It neither contains nor is contained in a word of `taken`, which it then joins: commands that search or replace
    one word must never touch another.
    """
    while True:
        parts = [rng.randrange(len(_SYLLABLES)) for _ in range(rng.choice((2, 2, 3)))]
        text = "".join(_SYLLABLES[p] for p in parts) + rng.choice(_ENDINGS)
        if split_of(text) != split or any(text in other or other in text for other in taken or ()):
            continue
        if taken is not None:
            taken.add(text)
        return text


def split_of(text: str) -> Split:
    """Return the split that owns a word made by `word`.

    >>> split_of("baba")
    'heldout'
    """
    numbers = [_SYLLABLES.index(text[i : i + 2]) for i in range(0, len(text) - 1, 2) if text[i : i + 2] in _SYLLABLES]
    return "heldout" if sum(numbers) % _HELDOUT_EVERY == 0 else "train"
