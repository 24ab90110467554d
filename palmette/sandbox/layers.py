"""Which frozen layers still belong to somebody: what a fork shares is let go of by the last who has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What the root of a sandbox is made of, by name of layer."""

    top: int = 0  # the layer that is written to; 0: the root is not layered yet
    lowers: tuple[str, ...] = ()  # topmost first

    @property
    def names(self) -> frozenset[str]:
        """The mounts behind it, each once."""
        tops = (str(self.top),) if self.top else ()
        return frozenset((*tops, *(lower.partition("/")[0] for lower in self.lowers)))

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
