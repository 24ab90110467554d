"""Which frozen layers still belong to somebody: what a fork shares is let go of by the last who has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from palmette.sandbox.api import SandboxError

_DEPTH = 64  # layers; the next fork copies them into one
_DEPTH_OF_IMAGES = 400  # these cannot be copied into one; the kernel takes 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What the root of a sandbox is made of, by name of layer."""

    top: int = 0  # the layer that is written to; 0: the root is not layered yet
    lowers: tuple[str, ...] = ()  # topmost first

    @property
    def names(self) -> frozenset[str]:
        """The mounts behind it, each once."""
        return _names(self.top, self.lowers)

    def frozen(self) -> tuple[str, ...]:
        """Return `lowers` of a stack that is laid on this one."""
        return (f"{self.top}/u", *self.lowers) if self.top else self.lowers


class Layers:
    """Counts who holds which layer; `drop(name)` is called when nobody does any more."""

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop
        self._held: Counter[str] = Counter()
        self._serial = 0

    def fresh(self) -> int:
        """Return a number for a layer that no other has had."""
        self._serial += 1
        return self._serial

    def turn(self, stack: Stack, *, image: bool) -> tuple[Stack, int, bool]:
        """Return a stack with a fresh top over `stack`, the layer its root is kept as (0: none), and if by copying.

        Raises `SandboxError` where there are too many layers, which over an image cannot be copied into one.
        """
        lowers = stack.frozen()
        if len(lowers) >= _DEPTH_OF_IMAGES:
            raise SandboxError(f"{len(lowers)} forks of forks are as many as there can be over an image")
        flat = len(lowers) >= _DEPTH and not image
        kept = self.fresh() if flat or not lowers else 0
        return Stack(top=self.fresh(), lowers=(str(kept),) if kept else lowers), kept, flat

    def hold(self, names: Iterable[str]) -> None:
        """Hold each of `names` once more."""
        self._held.update(names)

    def release(self, names: Iterable[str]) -> None:
        """Let go of each of `names` once."""
        for name in names:
            self._held[name] -= 1
            if self._held[name] <= 0:
                del self._held[name]
                self._drop(name)

    def __len__(self) -> int:
        return len(self._held)


@lru_cache(maxsize=1024)  # asked for several times a fork, of up to 400 layers
def _names(top: int, lowers: tuple[str, ...]) -> frozenset[str]:
    tops = (str(top),) if top else ()
    return frozenset((*tops, *(lower.partition("/")[0] for lower in lowers)))
