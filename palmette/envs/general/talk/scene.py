"""A scene: a backend's state, a customer, a policy and what is right to do; it becomes a task with a service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from palmette.chat.message import Tool
from palmette.envs import logged
from palmette.envs.api import Draft, ServiceTool, Split, Step
from palmette.envs.general.talk import desk, listen, retail, telecom, travel
from palmette.envs.general.talk.customer import Customer
from palmette.envs.general.talk.desk import Desk

BACKENDS: dict[str, ModuleType] = {"retail": retail, "telecom": telecom, "travel": travel, "listen": listen}
SERVICE, SAY, SUBMIT = "desk", "say", "submit"
_HERE = Path(__file__).parent
_CHECK = "#!/bin/sh\nexec python3 -I -S /tests/settle.py\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a dialogue needs; `acts` are the right calls in order, as ``("order", "kavo-12")`` or ``("say", "Done.")``.

    `customer` is the data of `palmette.envs.general.talk.customer`, `says` what they must be told (see `desk.fault`),
    `tools` the names of the backend's tools on offer, `system` the policy.
    """

    backend: str  # of BACKENDS
    skills: tuple[str, ...]
    template: str
    system: str
    instruction: str
    state: Mapping[str, Any]
    tools: Sequence[str]
    acts: Sequence[tuple[str, ...]]
    customer: Mapping[str, Any]
    says: Sequence[Mapping[str, Any]] = field(default=())

    def draft(self, *, tier: int, split: Split, name: str) -> Draft:
        """Return the task; observations and the goal are what the right calls lead to."""
        counter, steps = self._played()
        goal = {"outcome": counter.outcome(), "says": list(self.says)}
        why = desk.fault(counter, goal)
        assert not why, f"{name}: the reference does not do: {why}"
        live = {"backend": self.backend, "state": self.state, "customer": self.customer, "service": SERVICE}
        code = {"desk.py": _text("desk"), "customer.py": _text("customer"), f"{self.backend}.py": _text(self.backend)}
        return Draft(
            name=name,
            domain="general",
            instruction=self.instruction,
            system=self.system,
            files={".keep": ""},
            services={SERVICE: {**code, "serve.py": _text("serve"), "plan.json": _json(live)}},
            tools=tuple(_tool(self.backend, tool) for tool in self.tools),
            shell=False,
            user=SERVICE,
            test_files={
                **code,
                "test.sh": _CHECK,
                "settle.py": _text("settle"),
                "logged.py": Path(logged.__file__).read_text(encoding="utf-8"),
                "plan.json": _json({**live, "goal": goal}),
            },
            steps=(*steps, Step(tool=SUBMIT, arguments={}, observation="submitted")),
            tier=tier,
            split=split,
            skills=self.skills,
            template=self.template,
            agent_timeout_s=120.0 if tier == 1 else 900.0,
        )

    def _played(self) -> tuple[Desk, tuple[Step, ...]]:
        """Return the counter after the right calls, and these as steps with what is observed."""
        counter = Desk(BACKENDS[self.backend], dict(self.state), Customer(dict(self.customer)))
        steps: list[Step] = []
        for tool, *values in self.acts:
            if tool == SAY:
                told, arguments = counter.say(values[0]), {"text": values[0]}
            else:
                arguments = dict(zip(_known(self.backend)[tool][2], values, strict=True))
                told = counter.call(tool, arguments)
            steps.append(Step(tool=tool, arguments=arguments, observation=told))
        return counter, tuple(steps)


def told(*values: str, among: Sequence[str] = (), most: int = 1, stage: int | None = None) -> dict[str, Any]:
    """Return the need to tell the customer one of `values`, and no more than `most` of those `among` which it is."""
    return {"any": list(values), "among": list(among), "most": most, "stage": stage}


def _tool(backend: str, name: str) -> ServiceTool:
    _, description, arguments = _known(backend)[name]
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
    }
    return ServiceTool(tool=Tool(name=name, description=description, parameters=parameters), service=SERVICE)


def _known(backend: str) -> dict[str, Any]:
    return {**desk.TOOLS, **BACKENDS[backend].TOOLS}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


@cache
def _text(module: str) -> str:
    """Return the source of a module beside this one."""
    return (_HERE / f"{module}.py").read_text(encoding="utf-8")
