"""First a plan, then acting on it."""

from __future__ import annotations

from collections.abc import Sequence

from palmette.scaffolds.contexts.api import History

FIRST = "First write a plan of a few lines, and call no tool yet."
THEN = "Now carry out the plan, step by step."


class Plan:
    """Asks for a plan in the first answer (Plan-and-Solve, arXiv 2305.04091); one who acts at once may."""

    name = "plan"

    def opening(self) -> str:
        """Ask for the plan."""
        return FIRST

    def after(self, history: History, calls: int, observations: Sequence[str]) -> str | None:
        """Ask for the work after the plan."""
        if not calls:
            return THEN if history.turns == 1 else None
        return ""
