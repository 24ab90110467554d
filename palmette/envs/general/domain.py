"""Composes general tasks: tier 1 is the smallest dialogues, tiers 2 to 6 are of several families that get harder."""

from __future__ import annotations

import random
from collections.abc import Callable

from palmette.envs.api import Draft, Split
from palmette.envs.general.problems import code, maths
from palmette.envs.general.rules import compose
from palmette.envs.general.talk import first, memory, phones, shop, trips
from palmette.envs.general.talk.scene import Scene

_Scenes = Callable[[random.Random, Split, int], Scene]
_DIALOGUES: tuple[_Scenes, ...] = (shop.scene, trips.scene, phones.scene, memory.scene)
_DRAFTS: tuple[Callable[..., Draft], ...] = (compose.draft, code.draft, maths.draft)


class General:
    """Dialogues with a customer and a backend, memory, instructions with many rules, programs, and sums."""

    name = "general"
    tiers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a task of one of the tier's families over names of `split`."""
        if tier == 1:
            return first.scene(rng, split).draft(tier=tier, split=split, name=name)
        family = rng.randrange(len(_DIALOGUES) + len(_DRAFTS))
        if family < len(_DIALOGUES):
            return _DIALOGUES[family](rng, split, tier).draft(tier=tier, split=split, name=name)
        return _DRAFTS[family - len(_DIALOGUES)](rng, tier=tier, split=split, name=name)
