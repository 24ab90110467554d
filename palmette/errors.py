"""The two errors that cross areas: what a user can mend, and what the house itself got wrong.

A `UserError` is printed as one line (what was wrong, where, what to do) and ends the program with exit code 2.
Everything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; its text is one line that says what, where, and what to do."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or an empty string.

    >>> suggest("modle", ["model", "train"])
    "; did you mean 'model'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
