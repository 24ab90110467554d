"""A domain of tau2-bench as its authors wrote it, out of the clone at $CLONE: data base, both sides' tools, assertions.

The package itself is not imported as a whole (it would want every model provider's library): its modules are found
below an empty package of its name. This file stands alone, because it is copied into tasks.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import Any


def opened(domain: str) -> Any:
    """Return the environment of a domain with its data base as published."""
    clone = os.environ["CLONE"]
    if "tau2" not in sys.modules:
        package = types.ModuleType("tau2")
        package.__path__ = [os.path.join(clone, "src", "tau2")]
        sys.modules["tau2"] = package
        os.environ["TAU2_DATA_DIR"] = os.path.join(clone, "data")
        os.environ["LOGURU_AUTOINIT"] = "0"  # it would print every call
    return importlib.import_module(f"tau2.domains.{domain}.environment").get_environment()


class World:
    """An environment in the state that a row begins with; changes happen to the `environment` given."""

    def __init__(self, environment: Any, row: dict) -> None:
        self.environment = environment
        task = importlib.import_module("tau2.data_model.tasks").Task.model_validate(row)
        self._message = importlib.import_module("tau2.data_model.message")
        self._assertions = (task.evaluation_criteria and task.evaluation_criteria.env_assertions) or []
        first = task.initial_state
        data, actions = (first.initialization_data, first.initialization_actions) if first else (None, None)
        environment.set_state(data, actions, [])
        self._only = row.get("user_tools")

    def use(self, tool: str, arguments: dict, *, by: str) -> str:
        """Return what a tool of the "assistant" or the "user" answers; it cannot fail."""
        try:
            call = self._message.ToolCall(id="", name=tool, arguments=arguments, requestor=by)
            return str(self.environment.get_response(call).content or "")
        except Exception as error:  # whatever the clone's code does with odd arguments
            return f"Error: {type(error).__name__}: {error}"

    def reads(self, tool: str, *, by: str) -> bool:
        """Say whether a tool changes nothing, as its authors have marked it."""
        kit = self._kit(by)
        if kit is None or not kit.has_tool(tool):
            return True  # it is not there, so nothing happens
        return kit.tool_type(tool).value in ("read", "think")

    def schemas(self, by: str) -> list[dict]:
        """Return name, description and parameters of the tools of one side."""
        kit = self._kit(by)
        tools = kit.get_tools() if kit else {}
        if by == "user" and self._only is not None:
            tools = {name: tool for name, tool in tools.items() if name in self._only}
        return [tool.openai_schema["function"] for tool in tools.values()]

    def end(self) -> dict:
        """Return digests of both data bases, and which assertions hold."""
        hold = []
        for assertion in self._assertions:
            try:
                hold.append(bool(self.environment.run_env_assertion(assertion, raise_assertion_error=False)))
            except Exception:  # one that cannot be asked does not hold
                hold.append(False)
        world = self.environment
        return {"db": world.get_db_hash(), "user_db": world.get_user_db_hash(), "assertions": hold}

    def _kit(self, by: str) -> Any:
        return self.environment.user_tools if by == "user" else self.environment.tools
