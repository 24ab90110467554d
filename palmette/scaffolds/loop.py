"""The built-in white-box agent: ask the model, do what it calls for, tell it what came of it, until it submits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from palmette.chat.form import schema
from palmette.chat.message import ToolCall
from palmette.sandbox.api import Sandbox
from palmette.scaffolds.api import NOTHING, Endpoint, Offer, Pause, Stop
from palmette.scaffolds.tools import OBSERVATION_CHARS, SUBMIT, TOOLS, act, observe, toolset

SYSTEM_PROMPT = "You are an agent in a Linux shell. Solve the task with the tools, then submit."
__all__ = ["SYSTEM_PROMPT", "TOOLS", "ToolLoop", "act", "observe", "toolset"]


class ToolLoop:
    """Drives one rollout over Chat Completions; one object serves many rollouts of one event loop at once.

    At most `max_turns` answers, observations of at most `observation_chars` characters, and `patience_s` seconds of
    waiting on an overloaded endpoint. An answer without any call goes to the task's user, and where there is none it
    ends the rollout (`Stop.GAVE_UP`); a call that cannot be read or names no tool is answered by an error and the loop
    goes on. A user who leaves ends it as a submission does.
    """

    name = "loop"
    inside = False  # requests leave from the host, not from the sandbox

    def __init__(
        self,
        max_turns: int = 12,
        observation_chars: int = OBSERVATION_CHARS,
        system_prompt: str = SYSTEM_PROMPT,
        *,
        patience_s: float = 60.0,
    ) -> None:
        if max_turns < 1 or observation_chars < 1:
            raise ValueError(f"max_turns {max_turns} and observation_chars {observation_chars} must be positive")
        self.max_turns = max_turns
        self.observation_chars = observation_chars
        self.system_prompt = system_prompt
        self.patience_s = patience_s
        self._http: aiohttp.ClientSession | None = None

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Work on the task until done. Raises `SandboxError`, and `RuntimeError` for a request the endpoint refuses."""
        stop = await self.go_on(self.opening(instruction, offer), sandbox, endpoint, offer=offer)
        assert isinstance(stop, Stop)
        return stop

    def opening(self, instruction: str, offer: Offer = NOTHING) -> Pause:
        """Return where a rollout begins."""
        system = {"role": "system", "content": offer.system or self.system_prompt}
        return Pause(messages=(system, {"role": "user", "content": instruction}))

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
        messages, tools = list(pause.messages), [schema(tool) for tool in toolset(offer)]
        for turn in range(pause.turns, self.max_turns):
            if turn == until:
                return Pause(messages=tuple(messages), turns=turn)
            answer = await self._ask(endpoint, messages, tools)
            if isinstance(answer, Stop):
                return answer
            calls = answer.get("tool_calls") or []
            talk = not calls and not answer.get("malformed")
            if talk and offer.say is None:
                return Stop.GAVE_UP
            messages.append(_echo(answer))
            if talk and offer.say is not None:
                reply = await offer.say(answer.get("content") or "")
                if reply is None:
                    return Stop.SUBMITTED
                messages.append({"role": "user", "content": reply})
            elif not calls:
                messages.append({"role": "user", "content": f"error: malformed tool call: {answer['malformed']}"})
            for call in calls:
                parsed = _parse(call)
                if isinstance(parsed, ToolCall) and parsed.name == SUBMIT:
                    return Stop.SUBMITTED
                told = parsed
                if isinstance(parsed, ToolCall):
                    told = await act(parsed, sandbox, limit=self.observation_chars, offer=offer)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": told})
        return Stop.TURN_LIMIT

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _ask(
        self, endpoint: Endpoint, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> dict[str, Any] | Stop:
        """Return the assistant's message, or why there is none."""
        body = orjson.dumps({"model": endpoint.model, "messages": messages, "tools": tools})
        headers = {"authorization": f"Bearer {endpoint.api_key}", "content-type": "application/json"}
        patience_s = self.patience_s
        while True:
            try:
                async with self._client().post(
                    f"{endpoint.base_url}/chat/completions", data=body, headers=headers
                ) as response:
                    status, text = response.status, await response.read()
                    wait_s = _retry_after_s(response.headers)
            except (aiohttp.ClientError, TimeoutError):
                return Stop.ENGINE_ERROR
            if status != 429:
                return _answer(status, text)
            if wait_s > patience_s:
                return Stop.OVERLOADED
            patience_s -= wait_s
            await asyncio.sleep(wait_s)

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),  # the rollout's own clock ends it
            )
        return self._http


def _answer(status: int, text: bytes) -> dict[str, Any] | Stop:
    """Return the message of a response. Raises `RuntimeError` for a refusal that is nobody's but our own fault."""
    if status >= 500:
        return Stop.ENGINE_ERROR
    try:
        body = orjson.loads(text)
        if status == 200:
            message = body["choices"][0]["message"]
            return message if isinstance(message, dict) else Stop.ENGINE_ERROR
        error = body["error"]
        code, message = error.get("code"), error.get("message")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return Stop.ENGINE_ERROR
    if code == "context_length_exceeded":
        return Stop.CONTEXT_EXHAUSTED
    raise RuntimeError(f"the endpoint refused a request of the built-in loop ({status}): {message}")


def _echo(answer: Mapping[str, Any]) -> dict[str, Any]:
    echo: dict[str, Any] = {"role": "assistant", "content": answer.get("content")}
    if answer.get("tool_calls"):
        echo["tool_calls"] = answer["tool_calls"]
    return echo


def _parse(call: Mapping[str, Any]) -> ToolCall | str:
    """Return a call as the tools want it, or the observation that says why it cannot be read."""
    function = call["function"]
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError as error:
        return f"error: malformed tool call: the arguments are not JSON: {error}"
    if not isinstance(arguments, dict):
        return "error: malformed tool call: the arguments are not an object"
    return ToolCall(id=call["id"], name=function["name"], arguments=arguments)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("retry-after", "1")), 0.05), 3600.0)
    except ValueError:
        return 1.0
