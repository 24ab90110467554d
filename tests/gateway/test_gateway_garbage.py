"""What lives on is looked at once; what is no longer referred to goes away all the same, cycles in time."""

from __future__ import annotations

import gc
import weakref

from palmette.gateway.garbage import look_once


class Thing:
    pass


def test_old_objects_are_not_looked_at_again_until_all_are():
    kept = [Thing() for _ in range(10)]
    ring = Thing()
    ring.itself = ring  # type: ignore[attr-defined]
    undo = look_once()
    try:
        assert not any(thing is kept[0] for thing in gc.get_objects()), "frozen"
        seen = weakref.ref(ring)
        del ring
        gc.collect()
        assert seen() is not None, "a cycle among what was seen waits"
        gone = weakref.ref(kept.pop())
        assert gone() is None, "no cycle: gone at once"
        for _ in range(64):
            gc.collect()
        assert seen() is None
    finally:
        undo()
    assert any(thing is kept[0] for thing in gc.get_objects())
