"""Demonstrations: the reference steps of a task, taken by the built-in loop in a real sandbox, as tokens.

The loop is the one that drives rollouts, in any of its styles; only its model is replaced by the reference. So the
observations are what the sandbox answers, calls are written as the style writes them, and the tokens are laid out turn
by turn exactly as the gateway lays them out: a model is taught what it will meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palmette.chat.message import Message, Tool, ToolCall
from palmette.chat.template import Renderer
from palmette.envs.api import Step, Task
from palmette.envs.services import opened
from palmette.envs.task import load_steps
from palmette.envs.tools import SAY
from palmette.gateway.openai_messages import read_messages, read_tools
from palmette.rollout.offer import offer_of
from palmette.sandbox.api import Host
from palmette.scaffolds.api import Endpoint, Stop
from palmette.scaffolds.completions import Answer
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.naming import Naming
from palmette.scaffolds.protocols.names import PROTOCOLS
from palmette.scaffolds.style import Style

_NOWHERE = Endpoint(base_url="", api_key="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One sequence to imitate; `sampled[t]` marks the tokens of the assistant's turns (both of length T)."""

    task: str
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]


async def demonstrate(task: Task, renderer: Renderer, host: Host, style: Style | None = None) -> Demonstration:
    """Take the reference steps of `task` in a loop of `style` and return them as tokens.

    Of a style count protocol and names: a reference neither plans nor reflects, and its history is shown whole. Raises
    `UserError` when the task has no reference steps, `SandboxError` when the sandbox fails.
    """
    steps = load_steps(task)
    style = replace(style or Style(), context="full", size=0, flow="react")
    async with opened(task, host, owner=f"demonstrate/{task.name}") as (sandbox, services):
        offer = offer_of(task, services)
        loop = ToolLoop(max_turns=len(steps), style=style)
        reference = _Reference(steps, renderer, style, loop.naming(offer))
        loop.completions = reference
        await loop.run(task.instruction, sandbox, _NOWHERE, offer=offer)
    return Demonstration(task=task.name, token_ids=tuple(reference.token_ids), sampled=tuple(reference.sampled))


def turn_of(step: Step, number: int) -> Message:
    """Return the assistant's message that takes a step of a reference: one call, or plain words to the user."""
    if step.tool == SAY:
        return Message(role="assistant", content=step.arguments["text"])
    call = ToolCall(id=f"call{number}", name=step.tool, arguments=step.arguments)
    return Message(role="assistant", tool_calls=(call,))


class _Reference:
    """What answers the loop instead of a model, and writes down the tokens as it is asked."""

    def __init__(self, steps: Sequence[Step], renderer: Renderer, style: Style, naming: Naming) -> None:
        self.token_ids: list[int] = []
        self.sampled: list[bool] = []
        self._turns = (turn_of(step, number) for number, step in enumerate(steps))
        self._renderer, self._protocol, self._naming = renderer, PROTOCOLS[style.protocol], naming
        self._told: tuple[Message, ...] = ()  # all that the last prompt and its answer said
        self._answer_ids: list[int] = []

    async def ask(
        self, endpoint: Endpoint, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Answer | Stop:
        """Return the next step as the protocol says it."""
        turn = next(self._turns)
        calls = [self._naming.as_told(call) for call in turn.tool_calls]
        answer = self._protocol.say(turn.content, calls, self._naming.told)
        self._write(read_messages(list(messages)).messages, answer, read_tools(list(tools)))
        return Answer(message=answer, tokens=len(self.token_ids))

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""

    def _write(self, asked: Sequence[Message], answer: dict[str, Any], tools: Sequence[Tool]) -> None:
        if self._told:
            new = asked[len(self._told) :]
            self.token_ids += self._renderer.onward(self._answer_ids, self._told, new, tools)
        else:
            self.token_ids += self._renderer.prompt(asked, tools)
        self.sampled += [False] * (len(self.token_ids) - len(self.sampled))
        (turn,) = read_messages([answer]).messages
        self._answer_ids = self._renderer.completion(asked, turn, tools)
        self.token_ids += self._answer_ids
        self.sampled += [True] * len(self._answer_ids)
        self._told = (*asked, turn)
