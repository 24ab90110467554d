"""Think, act, look, and again."""

from __future__ import annotations

from collections.abc import Sequence

from palmette.scaffolds.contexts.api import History


class React:
    """Says nothing of its own; an answer without a call is the end (ReAct, arXiv 2210.03629)."""

    name = "react"

    def opening(self) -> str:
        """Return nothing."""
        return ""

    def after(self, history: History, calls: int, observations: Sequence[str]) -> str | None:
        """Go on after a call."""
        return "" if calls else None
