"""What a control flow is: the words that the user says besides the task, and whether an answer without a call ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from palmette.scaffolds.contexts.api import History

_ENDED_BADLY = re.compile(r"^error: |(^|\n)\[(exit \d+|timeout|out of memory)\]$")


class Flow(Protocol):
    """Leads an agent through its turns; it keeps nothing, all it goes by is in the history."""

    name: str

    def opening(self) -> str:
        """Return what is said behind the task, "" for nothing."""
        ...

    def after(self, history: History, calls: int, observations: Sequence[str]) -> str | None:
        """Return what to say after an answer, which is in the history, and what came of its calls: "" for nothing.

        None is for an answer without a call that means the end.
        """
        ...


def failed(observation: str) -> bool:
    """Say whether a result tells of something that went wrong."""
    return _ENDED_BADLY.search(observation) is not None
