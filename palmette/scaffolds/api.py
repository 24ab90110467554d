"""What a scaffold is: a program that drives a model through an HTTP endpoint to solve a task in a sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from palmette.chat.message import Tool
from palmette.sandbox.api import Sandbox


class Stop(StrEnum):
    """Why a scaffold stopped driving the model."""

    SUBMITTED = "submitted"
    GAVE_UP = "gave_up"  # answered without a tool call, or exited without submitting
    TURN_LIMIT = "turn_limit"
    TIMEOUT = "timeout"
    CONTEXT_EXHAUSTED = "context_exhausted"
    ENGINE_ERROR = "engine_error"  # the endpoint answered 5xx
    OVERLOADED = "overloaded"  # the endpoint answered 429 until patience ran out


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the model is, e.g. ``Endpoint(base_url="http://127.0.0.1:8000/s/KEY/v1", api_key="KEY")``.

    `base_url` is as seen from where the scaffold's requests leave: the host for the built-in loop, the inside of the
    sandbox for a CLI agent.
    """

    base_url: str
    api_key: str
    model: str = "palmette"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a task brings beside its instruction and its sandbox; nothing by default (`NOTHING`).

    `call(name, arguments)` calls one of `tools` and returns what it says. `say(text)` tells the task's user something
    and returns the answer, None once the user has left; without it nobody listens. Both raise `SandboxError`. An agent
    that has only a shell finds the same as commands, which `manual` explains.
    """

    tools: tuple[Tool, ...] = ()
    call: Callable[[str, Mapping[str, Any]], Awaitable[str]] | None = None
    say: Callable[[str], Awaitable[str | None]] | None = None
    shell: bool = True  # False: neither bash nor edit
    system: str = ""  # instead of the scaffold's own system prompt
    manual: str = ""


NOTHING = Offer()


class Scaffold(Protocol):
    """Drives one rollout."""

    name: str

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Work on the task until done; raises `SandboxError` when the sandbox fails."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Where a scaffold stands between two turns: all messages so far, and how many answers there were.

    `opening` are the messages it began with, `observed` which messages tell results, `tokens` what the last request
    took: with these a context is managed.
    """

    messages: tuple[dict[str, Any], ...]
    turns: int = 0
    opening: tuple[dict[str, Any], ...] = ()
    observed: tuple[int, ...] = ()
    tokens: int = 0


@runtime_checkable
class Pausing(Protocol):
    """A scaffold that can stop between turns and go on elsewhere: ``isinstance(scaffold, Pausing)``."""

    def opening(self, instruction: str, offer: Offer = NOTHING) -> Pause:
        """Return where a rollout begins."""
        ...

    async def go_on(
        self,
        pause: Pause,
        sandbox: Sandbox,
        endpoint: Endpoint,
        *,
        until: int | None = None,
        offer: Offer = NOTHING,
    ) -> Stop | Pause:
        """Work on from there, to the end or until `until` answers are there; raises as `Scaffold.run` does."""
        ...
