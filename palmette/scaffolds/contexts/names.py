"""Context managers by name; each is made with a size, 0 for its own."""

from __future__ import annotations

from collections.abc import Callable

from palmette.scaffolds.contexts.api import Context
from palmette.scaffolds.contexts.full import Full
from palmette.scaffolds.contexts.sliding import Sliding
from palmette.scaffolds.contexts.summary import Summary
from palmette.scaffolds.contexts.truncate import Truncate

CONTEXTS: dict[str, Callable[[int], Context]] = {
    "full": Full,
    "sliding": Sliding,
    "summary": Summary,
    "truncate": Truncate,
}
