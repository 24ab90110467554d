"""Keep the collector of cycles from looking at what sessions hold again and again.

Sessions are many objects that live long and refer to each other in no circles, and every full collection stops the
event loop while it looks at all of them: a quarter of a second with 500 sessions, measured, and a tenth of all time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

_ALL_AFTER = 64  # full collections of what is new, before one of everything


def look_once() -> Callable[[], None]:
    """Have every object looked at by one full collection and then, but for one in 64, by none; return what undoes it.

    This is a setting of the whole process, so for one that does nothing but serve.
    """
    seen = 0

    def after(phase: str, told: dict[str, int]) -> None:
        nonlocal seen
        if told["generation"] != 2:
            return
        if phase == "stop":
            seen += 1
            gc.freeze()
        elif seen and seen % _ALL_AFTER == 0:
            gc.unfreeze()

    def undo() -> None:
        gc.callbacks.remove(after)
        gc.unfreeze()

    gc.collect()
    gc.freeze()
    gc.callbacks.append(after)
    return undo
