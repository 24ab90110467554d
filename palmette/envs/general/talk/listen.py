"""The backend of a talk without tools: nothing can be changed. This file stands alone; it is copied into tasks."""

from __future__ import annotations

TOOLS: dict = {}
CHANGES = ()


def outcome(state: dict) -> dict:
    """Return what counts at the end."""
    return state
