"""One rollout's view of the gateway: its key, its sampling, its token tree, and what was said.

A prompt is found by conversation identity. Where a request goes on from an answer this session gave, the next prompt
is the old prompt and the *sampled* ids followed by the tokens of what is new (`Renderer.extend`), so the tokens the
model is trained on are those it sampled. Anything else is rendered afresh and forks the tree where its tokens
differ. Nothing enters the tree before the engine has answered: a failed call leaves no trace.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from palmette.chat.message import Message, Tool
from palmette.chat.template import PrefixBroken, Renderer, TemplateRefused
from palmette.engine.api import Completion, ContextExhausted, Engine, EngineError, Sampling
from palmette.gateway import identity, refusal
from palmette.gateway.fields import read_json
from palmette.trajectory.tree import Tree

# Longer conversations are tokenised in the gateway's one tokenising thread (the tokenizer lets go of the interpreter).
# Measured, eight first prompts of 60,000 characters at once on two busy cores: the event loop stalls for 0.7 s without
# the thread, 0.12 s with it, and again 0.7 s with six threads, at the same requests a second. A prompt of 850 tokens
# takes 0.8 ms, less than the way to a thread and back.
OFF_LOOP_CHARS = 16_384


class Failure(StrEnum):
    """Why the last call of a session was not answered; the values are those of `palmette.scaffolds.api.Stop`."""

    ENGINE_ERROR = "engine_error"
    CONTEXT_EXHAUSTED = "context_exhausted"
    OVERLOADED = "overloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for one completion, whatever the dialect it came in.

    `max_tokens` bounds this answer. The other four are what the agent would like; only a session opened with
    `honour_sampling` heeds them.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answered request: what the engine saw, what it sampled, what that says, and its `leaf` in the tree."""

    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    completion: Completion
    answer: Message
    leaf: int
    id: str = field(default_factory=lambda: secrets.token_hex(12))


class Session:
    """The calls of one rollout. `failure` is why the last call was not answered, None when it was.

    `conversation` is everything said, once, as plain dicts in order of arrival: ``role``, ``content``,
    ``tool_calls`` (name and arguments), ``turn``, and on sampled messages ``prompt_tokens``, ``completion_tokens``
    and ``leaf`` (the tree's node id).
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        max_completion_tokens: int | None = None,
        honour_sampling: bool = False,
        tokenising: Executor | None = None,
    ) -> None:
        self.key = secrets.token_urlsafe(24)
        self.tree = Tree()
        self.turns = 0
        self.failure: Failure | None = None
        self.conversation: list[dict[str, Any]] = []
        self.closed = False
        self._sampling = sampling
        self._cap = max_completion_tokens
        self._honour = honour_sampling
        self._tokenising = tokenising
        self._known: dict[identity.Digest, Turn] = {}
        self._said: set[identity.Digest] = set()
        self._calls = 0
        self._under_way: set[asyncio.Task[Turn]] = set()
        self._once: dict[str, asyncio.Task[Turn]] = {}

    @property
    def base_url(self) -> str:
        """Path of this session below the gateway's address, e.g. ``/s/KEY/v1``."""
        return f"/s/{self.key}/v1"

    @property
    def sampled_tokens(self) -> int:
        """Number of sampled tokens in the tree."""
        return self.tree.num_sampled

    @property
    def stop(self) -> Failure | None:
        """Same as `failure`."""
        return self.failure

    async def answer(self, ask: Ask, engine: Engine, renderer: Renderer, *, once: str | None = None) -> Turn:
        """Sample one answer and record it; cancelling the caller cancels the generation.

        `once` names a request that may arrive twice (a retry): the second is given the first's turn, and the first
        is carried through even if its caller leaves. Without it, an identical request is a fresh sample. Raises
        `Refusal`: 400 context exhausted, 404 closed meanwhile, 503 engine failed.
        """
        task = self._once.get(once) if once is not None else None
        if task is None:
            task = asyncio.ensure_future(self._answer(ask, engine, renderer))
            self._under_way.add(task)
            task.add_done_callback(lambda done: self._finished(done, once))
            if once is not None:
                self._once[once] = task
        try:
            return await (task if once is None else asyncio.shield(task))
        except asyncio.CancelledError:
            if self.closed:
                raise refusal.unknown_session() from None
            raise

    def close(self) -> None:
        """Stop what is under way; the tree is final from here on. Idempotent."""
        self.closed = True
        for task in self._under_way:
            task.cancel()

    def _finished(self, task: asyncio.Task[Turn], once: str | None) -> None:
        self._under_way.discard(task)
        if once is not None and (task.cancelled() or task.exception() is not None):
            self._once.pop(once, None)

    async def _answer(self, ask: Ask, engine: Engine, renderer: Renderer) -> Turn:
        if self.closed:
            raise refusal.unknown_session()
        digests = identity.chain(ask.messages, ask.tools)
        if self._tokenising and sum(len(message.content) for message in ask.messages) > OFF_LOOP_CHARS:
            loop = asyncio.get_running_loop()
            prompt_ids = await loop.run_in_executor(self._tokenising, self._prompt, ask, digests, renderer)
        else:
            prompt_ids = self._prompt(ask, digests, renderer)
        sampling = self._sampling_for(ask, self.turns + len(self._under_way) - 1)
        try:
            completion = await engine.complete(prompt_ids, sampling)
        except ContextExhausted as error:
            self.failure = Failure.CONTEXT_EXHAUSTED
            raise refusal.context_exhausted(engine.context_tokens, len(prompt_ids)) from error
        except EngineError as error:
            self.failure = Failure.ENGINE_ERROR
            raise refusal.engine_failed(str(error)) from error
        except Exception:
            self.failure = Failure.ENGINE_ERROR
            raise
        if self.closed:
            raise refusal.unknown_session()
        return self._record(ask, digests, prompt_ids, completion, _readable(completion.token_ids, renderer))

    def _prompt(self, ask: Ask, digests: Sequence[identity.Digest], renderer: Renderer) -> list[int]:
        """Return the ids of the prompt: the longest conversation this session answered, extended; else all anew."""
        for length in range(len(ask.messages) - 1, 0, -1):
            turn = self._known.get(digests[length])
            if turn is None:
                continue
            known = (*turn.messages, turn.answer)
            new = _with_our_call_ids(ask.messages, length, known)
            try:
                return renderer.extend(turn.prompt_ids, turn.completion.token_ids, known, new, ask.tools)
            except (PrefixBroken, TemplateRefused):
                break
        try:
            return renderer.prompt(ask.messages, ask.tools)
        except TemplateRefused as error:
            reason = str(error).removeprefix(f"{renderer.source}: ")  # where the model lies is not the agent's affair
            raise refusal.malformed("messages", reason) from error

    def _sampling_for(self, ask: Ask, index: int) -> Sampling:
        """Return the rollout's own sampling, bounded by what the agent asked for, with a seed of this turn."""
        sampling = self._sampling
        if self._honour:
            liked = {name: getattr(ask, name) for name in ("temperature", "top_p", "top_k", "seed")}
            sampling = replace(sampling, **{name: value for name, value in liked.items() if value is not None})
        elif sampling.seed is not None:
            sampling = replace(sampling, seed=turn_seed(sampling.seed, index))
        bounds = [bound for bound in (sampling.max_tokens, self._cap, ask.max_tokens) if bound is not None]
        return replace(sampling, max_tokens=min(bounds))

    def _record(
        self,
        ask: Ask,
        digests: Sequence[identity.Digest],
        prompt_ids: Sequence[int],
        completion: Completion,
        parsed: Message,
    ) -> Turn:
        leaf = self.tree.commit(prompt_ids, completion.token_ids, completion.logprobs, completion.version)
        calls = tuple(replace(call, id=self._next_call_id()) for call in parsed.tool_calls)
        answer = replace(parsed, tool_calls=calls)
        turn = Turn(
            messages=ask.messages, prompt_ids=tuple(prompt_ids), completion=completion, answer=answer, leaf=leaf
        )
        self._known[identity.follow(digests[-1], answer)] = turn
        self._say(turn, digests)
        self.turns += 1
        self.failure = None
        return turn

    def _say(self, turn: Turn, digests: Sequence[identity.Digest]) -> None:
        """Append to `conversation` what it does not hold yet."""
        for message, digest in zip(turn.messages, digests[1:], strict=True):
            if digest not in self._said:
                self._said.add(digest)
                self.conversation.append(_spoken(message) | {"turn": self.turns})
        self._said.add(identity.follow(digests[-1], turn.answer))
        self.conversation.append(
            _spoken(turn.answer)
            | {
                "turn": self.turns,
                "prompt_tokens": len(turn.prompt_ids),
                "completion_tokens": len(turn.completion.token_ids),
                "leaf": turn.leaf,
            }
        )

    def _next_call_id(self) -> str:
        """Return ``call00000``, ``call00001``...: no underscore and nine characters, as the pickiest agents want."""
        self._calls += 1
        return f"call{self._calls - 1:05d}"


def turn_seed(seed: int, turn: int) -> int:
    """Return the seed of the turn-th answer of a session: the first 63 bits of BLAKE2b of "seed/turn"."""
    return int.from_bytes(blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()) >> 1


def _readable(token_ids: Sequence[int], renderer: Renderer) -> Message:
    """Return what was sampled; calls whose arguments not every agent could read back are told as malformed.

    That is JSON deeper than requests may be, and integers beyond 64 bits.
    """
    message = renderer.parse(token_ids)
    for call in message.tool_calls:
        try:
            readable = read_json(orjson.dumps(dict(call.arguments)), "arguments") == call.arguments
        except (TypeError, refusal.Refusal):
            readable = False
        if not readable:
            said = token_ids[:-1] if token_ids[-1] in renderer.stop_ids else token_ids
            reason = f"the arguments of {call.name} are nested too deeply or hold too large a number"
            return replace(message, content=renderer.decode(said), tool_calls=(), reasoning=None, malformed=reason)
    return message


def _with_our_call_ids(messages: Sequence[Message], length: int, known: Sequence[Message]) -> list[Message]:
    """Return ``messages[length:]`` in which results name the calls of ``messages[:length]`` as `known` does."""
    ours = dict(zip(identity.call_ids(messages[:length]), identity.call_ids(known), strict=True))
    return [
        replace(message, tool_call_id=ours[message.tool_call_id]) if message.tool_call_id in ours else message
        for message in messages[length:]
    ]


def _spoken(message: Message) -> dict[str, Any]:
    spoken: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        spoken["tool_calls"] = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls]
    if message.reasoning:
        spoken["reasoning"] = message.reasoning
    if message.malformed:
        spoken["malformed"] = message.malformed
    return spoken
