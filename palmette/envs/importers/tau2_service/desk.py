"""A tau2 domain and its caller behind one counter; what it has come to is in $STATE/end.json before it answers.

Beside serve.py, which logs what the agent does. This file stands alone, because it is copied into tasks.
"""

from __future__ import annotations

import json
import os
from typing import Any


class Desk:
    """What the tools act on; `acts` are what the caller did: {"name", "arguments"}."""

    def __init__(self, backend: Any, state: dict, customer: Any) -> None:
        self.acts: list[dict] = []
        self._world = backend.World(state.get("environment") or backend.opened(state["domain"]), state["row"])
        self._customer = customer
        self._path = os.path.join(os.environ["STATE"], "end.json") if "STATE" in os.environ else ""
        customer.meet(self._world.schemas("user"), self._act)
        self._world_end = self._world.end()
        self._note()

    @property
    def end(self) -> dict:
        """What it has come to: data bases, assertions, and what the caller did."""
        return {**self._world_end, "acts": self.acts}

    def call(self, tool: str, arguments: dict) -> str:
        """Return what a tool of the agent answers."""
        return self._use(tool, arguments, by="assistant")

    def say(self, text: str) -> str:
        """Return what the caller answers."""
        return self._customer.hear(text)

    def _act(self, tool: str, arguments: dict) -> str:
        self.acts.append({"name": tool, "arguments": arguments})
        return self._use(tool, arguments, by="user")

    def _use(self, tool: str, arguments: dict, *, by: str) -> str:
        told = self._world.use(tool, arguments, by=by)
        if not self._world.reads(tool, by=by):
            self._world_end = self._world.end()
        if by == "user" or not self._world.reads(tool, by=by):
            self._note()
        return told

    def _note(self) -> None:
        if self._path:
            with open(self._path + ".new", "w", encoding="utf-8") as file:
                json.dump(self.end, file)
            os.rename(self._path + ".new", self._path)
