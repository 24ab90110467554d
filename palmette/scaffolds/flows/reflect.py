"""Reflect after failure: what went wrong, before the next attempt."""

from __future__ import annotations

from collections.abc import Sequence

from palmette.scaffolds.contexts.api import History
from palmette.scaffolds.flows.api import failed

WHY = "That went wrong. Say in a sentence or two why, and what to do instead; call no tool yet."
THEN = "Go on."


class Reflect:
    """Asks for a reflection when a call has failed (after Reflexion, arXiv 2303.11366, within one attempt)."""

    name = "reflect"

    def opening(self) -> str:
        """Return nothing."""
        return ""

    def after(self, history: History, calls: int, observations: Sequence[str]) -> str | None:
        """Ask why after a failure, and to go on after the reason."""
        if any(map(failed, observations)):
            return WHY
        if calls:
            return ""
        asked = len(history.messages) > 1 and str(history.messages[-2]["content"]).endswith(WHY)
        return THEN if asked else None
