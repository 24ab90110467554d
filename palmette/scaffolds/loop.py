"""The built-in white-box agent: ask the model, do what it calls for, tell it what came of it, until it submits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palmette.sandbox.api import Sandbox
from palmette.scaffolds.api import NOTHING, Endpoint, Offer, Pause, Stop
from palmette.scaffolds.completions import Answers, Completions
from palmette.scaffolds.contexts.api import History, Messages
from palmette.scaffolds.contexts.names import CONTEXTS
from palmette.scaffolds.flows.names import FLOWS
from palmette.scaffolds.naming import Naming
from palmette.scaffolds.protocols.api import Heard, Told, Unread
from palmette.scaffolds.protocols.names import PROTOCOLS
from palmette.scaffolds.style import BEST, MOST_TURNS, Style
from palmette.scaffolds.tools import OBSERVATION_CHARS, SUBMIT, TOOLS, act, observe, toolset, wrong_arguments

SYSTEM_PROMPT = "You are an agent in a Linux shell. Solve the task with the tools, then submit."
__all__ = ["SYSTEM_PROMPT", "TOOLS", "ToolLoop", "act", "observe", "toolset"]

_DEFAULT = Style()


class ToolLoop:
    """Drives one rollout over Chat Completions; one object serves many rollouts of one event loop at once.

    At most `max_turns` answers, observations of at most `observation_chars` characters, and `patience_s` seconds of
    waiting on an overloaded endpoint. An answer without any call goes to the task's user, and where there is none it
    ends the rollout (`Stop.GAVE_UP`); a call that cannot be read or names no tool is answered by an error and the loop
    goes on. A user who leaves ends it as a submission does. `style` says how all this is put to the model; its flow
    "best" is not this object's affair (`palmette.scaffolds.flows.best`).
    """

    inside = False  # requests leave from the host, not from the sandbox

    def __init__(
        self,
        max_turns: int = MOST_TURNS,
        observation_chars: int = OBSERVATION_CHARS,
        system_prompt: str = SYSTEM_PROMPT,
        *,
        patience_s: float = 60.0,
        style: Style = _DEFAULT,
    ) -> None:
        if max_turns < 1 or observation_chars < 1:
            raise ValueError(f"max_turns {max_turns} and observation_chars {observation_chars} must be positive")
        if style.flow == BEST:
            raise ValueError("flow 'best' is several loops: use BestOf")
        self.name = f"loop:{style.short}" if style.short else "loop"
        self.max_turns = max_turns
        self.observation_chars = observation_chars
        self.system_prompt = system_prompt
        self.style = style
        self.completions: Answers = Completions(patience_s)
        self._protocol, self._flow = PROTOCOLS[style.protocol], FLOWS[style.flow]
        self._context = CONTEXTS[style.context](style.size)

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Work on the task until done. Raises `SandboxError`, and `RuntimeError` for a request the endpoint refuses."""
        stop = await self.go_on(self.opening(instruction, offer), sandbox, endpoint, offer=offer)
        assert isinstance(stop, Stop)
        return stop

    def opening(self, instruction: str, offer: Offer = NOTHING) -> Pause:
        """Return where a rollout begins."""
        system = self._protocol.brief(offer.system or self.system_prompt, self.naming(offer).told)
        asked = "\n\n".join(filter(None, (instruction, self._flow.opening())))
        opening = ({"role": "system", "content": system}, {"role": "user", "content": asked})
        return Pause(messages=opening, opening=opening)

    def naming(self, offer: Offer = NOTHING) -> Naming:
        """Return the tools of a task as the model is told of them."""
        return Naming(toolset(offer), self.style.names if self.style.names >= 0 else None)

    async def go_on(
        self,
        pause: Pause,
        sandbox: Sandbox,
        endpoint: Endpoint,
        *,
        until: int | None = None,
        offer: Offer = NOTHING,
    ) -> Stop | Pause:
        """Work on from a pause, in this or in a forked sandbox and session, and raise as `run` does.

        Pauses when `until` answers are there, those before `pause` included, unless it has ended by then.
        """
        history, naming = _history(pause), self.naming(offer)
        while history.turns < self.max_turns:
            if history.turns == until:
                return _pause(history)
            answer = await self._answer(history, naming, endpoint)
            if isinstance(answer, Stop):
                return answer
            heard = self._protocol.read(answer, naming.told)
            history.messages.append(_echo(answer))
            if heard.wrong:
                history.add(f"error: malformed tool call: {heard.wrong}")
                continue
            told = await self._done(heard, naming, sandbox, offer)
            if isinstance(told, Stop):
                return told
            history.tell(self._protocol.tell(told))
            words = self._flow.after(history, len(told), [one.text for one in told])
            if words is None:
                if offer.say is None:
                    return Stop.GAVE_UP
                words = await offer.say(answer.get("content") or "")
                if words is None:
                    return Stop.SUBMITTED
            if words:
                history.add(words)
        return Stop.TURN_LIMIT

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self.completions.aclose()

    async def _answer(self, history: History, naming: Naming, endpoint: Endpoint) -> dict[str, Any] | Stop:
        """Return the next answer to what the context shows, or why there is none."""
        tools = self._protocol.offered(naming.told)

        async def aside(messages: Messages) -> str | None:
            answer = await self.completions.ask(endpoint, messages, tools)
            return None if isinstance(answer, Stop) else answer.message.get("content")

        answer = await self.completions.ask(endpoint, await self._context.shown(history, aside), tools)
        if isinstance(answer, Stop):
            return answer
        history.turns += 1
        history.tokens = answer.tokens
        return answer.message

    async def _done(self, heard: Heard, naming: Naming, sandbox: Sandbox, offer: Offer) -> list[Told] | Stop:
        """Do what is called for, in order, and return what came of it; a submission ends it."""
        told: list[Told] = []
        ours = len(naming.told) - len(offer.tools)
        for call in heard.calls:
            if isinstance(call, Unread):
                told.append(Told(id=call.id, name=call.name, text=f"error: malformed tool call: {call.wrong}"))
                continue
            own = naming.own(call)
            if own.name == SUBMIT:
                return Stop.SUBMITTED
            text = wrong_arguments(call, naming.told[:ours], naming.told[ours:])
            if not text:
                text = await act(own, sandbox, limit=self.observation_chars, offer=offer)
            told.append(Told(id=call.id, name=call.name, text=text))
        return told


def _history(pause: Pause) -> History:
    return History(
        messages=list(pause.messages),
        opening=pause.opening,
        observed=list(pause.observed),
        turns=pause.turns,
        tokens=pause.tokens,
    )


def _pause(history: History) -> Pause:
    return Pause(
        messages=tuple(history.messages),
        turns=history.turns,
        opening=history.opening,
        observed=tuple(history.observed),
        tokens=history.tokens,
    )


def _echo(answer: Mapping[str, Any]) -> dict[str, Any]:
    echo: dict[str, Any] = {"role": "assistant", "content": answer.get("content")}
    if answer.get("tool_calls"):
        echo["tool_calls"] = answer["tool_calls"]
    return echo
