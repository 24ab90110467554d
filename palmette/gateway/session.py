"""One rollout's view of the gateway: its key, its sampling, its token tree, and what was said.

A prompt is found by conversation identity. Where a request goes on from an answer this session gave, the next prompt
is the old prompt and the *sampled* ids followed by the tokens of what is new (`Renderer.extend`), so the tokens the
model is trained on are those it sampled. Anything else is rendered afresh and forks the tree where its tokens
differ. Nothing enters the tree before the engine has answered: a failed call leaves no trace.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from hashlib import blake2b
from typing import Any

from palmette.chat.message import Message
from palmette.chat.template import PrefixBroken, Renderer, TemplateRefused
from palmette.engine.api import Completion, ContextExhausted, Engine, EngineError, Sampling, StreamingEngine
from palmette.gateway import refusal
from palmette.gateway.answer import forced_ids, readable
from palmette.gateway.ask import Ask
from palmette.gateway.call import Call, Turn
from palmette.gateway.experts import with_earlier
from palmette.gateway.identity import Known, Walk, position
from palmette.gateway.key import new_key
from palmette.gateway.records import Recorded, recorded, write
from palmette.gateway.shared import Shared
from palmette.gateway.stops import sample_until
from palmette.gateway.transcript import Transcript
from palmette.trajectory.tree import ROOT, Tree

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
class Asked:
    """What one request was like: its dialect, and how many messages and tools it brought."""

    dialect: str
    streamed: bool
    messages: int
    tools: int


class Session:
    """The calls of one rollout. `failure` is why the last call was not answered, None when it was.

    `requests` are those for an answer that could be read, in order of arrival, repeated ones included.

    `conversation` is everything said, as `palmette.gateway.transcript` tells it; on sampled messages with
    ``prompt_tokens``, ``completion_tokens`` and ``leaf`` (the node id in the tree of tokens).
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        max_completion_tokens: int | None = None,
        honour_sampling: bool = False,
        shared: Shared | None = None,
        key: str | None = None,
        throwaway: bool = False,
        label: str = "",
    ) -> None:
        self.key = key or new_key()
        self.label = label
        self.recorded: list[Turn] = []
        self.tree = Tree()
        self.turns = 0
        self._failure: Failure | None = None
        self._transcript = Transcript()
        self.requests: list[Asked] = []
        self.closed = False
        self._sampling = sampling
        self._cap = max_completion_tokens
        self._honour = honour_sampling
        self._shared = shared
        self._journal = None if throwaway or shared is None else shared.journal
        self._link = None if throwaway or shared is None else shared.link
        self._known = Known()
        self._asked = self._issued = 0  # requests, and ids of tool calls
        self._under_way: set[asyncio.Task[Turn]] = set()
        self._named: dict[str, Call] = {}

    @property
    def failure(self) -> Failure | None:
        """Why the last call was not answered."""
        return self._failure

    @failure.setter
    def failure(self, failure: Failure | None) -> None:
        if self._link is not None and failure is not self._failure:
            self._link.failed(self.key, failure)
        self._failure = failure

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """Everything said."""
        return self._transcript.messages

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

    def ask(
        self,
        ask: Ask,
        engine: Engine,
        renderer: Renderer,
        *,
        name: str | None = None,
        again: bool = False,
        live: bool = False,
        dialect: str = "",
    ) -> Call:
        """Begin to sample one answer, which is recorded when it is whole; follow the call to have it.

        `name` names what is asked, word for word. The call of that name that went before is returned, and nothing is
        sampled, when this request says that it comes `again`, or when nobody was told that call's whole answer. Any
        other identical request is a fresh sample. `live` asks for tokens as they are sampled, of an engine that tells.

        The call's `turn` raises `Refusal`: 400 context exhausted, 404 closed meanwhile, 503 engine failed.
        """
        asked = Asked(dialect=dialect, streamed=live, messages=len(ask.messages), tools=len(ask.tools))
        self.requests.append(asked)
        if self._link is not None:
            self._link.asked(self.key, (dialect, live, asked.messages, asked.tools))
        known = self._named.get(name) if name is not None else None
        if known is not None and (again or known.answered_in_vain):
            return known
        call, index = Call(), self._asked
        call.held = bool(ask.stop)
        self._asked += 1
        task = call.start(self._answer(ask, engine, renderer, call, index, live))
        self._under_way.add(task)
        task.add_done_callback(lambda done: self._finished(done, call, name))
        if name is not None:
            self._named[name] = call
        return call

    async def turn(self, call: Call) -> Turn:
        """Return the turn of a call that is followed. Raises `Refusal`, and `CancelledError` if the caller is."""
        try:
            return await call.turn()
        except asyncio.CancelledError:
            if self.closed:
                raise refusal.unknown_session() from None
            raise

    async def count(self, ask: Ask, renderer: Renderer) -> int:
        """Return the number of tokens of the prompt that would be made. Raises `Refusal`."""
        prompt, _ = await self._prompt(ask, self._known.walk(ask.messages, ask.tools), renderer)
        return len(prompt) + len(forced_ids(ask.demand, renderer))

    def join(self, shared: Shared) -> None:
        """Go on in another gateway."""
        self._shared, self._journal, self._link = shared, shared.journal, shared.link

    async def noted(self) -> None:
        """Return when whoever reads this session elsewhere knows all that has happened to it."""
        if self._link is not None:
            await self._link.noted()

    def close(self) -> None:
        """Stop what is under way; the tree is final from here on. Idempotent."""
        self.closed = True
        for task in self._under_way:
            task.cancel()

    def forked(self, sampling: Sampling, *, key: str | None = None) -> Session:
        """Return a session with its own key that goes on from here: it has a copy of the tree, of what was said and of
        what is known, so the same messages extend the same sampled ids. What is under way stays with the original."""
        fork = Session(
            sampling,
            max_completion_tokens=self._cap,
            honour_sampling=self._honour,
            shared=self._shared,
            key=key,
            label=self.label,
        )
        nodes = ((at, self.tree.node(at)) for at in self.tree.nodes())
        fork.tree = Tree.restore((at, replace(node, arrays=dict(node.arrays))) for at, node in nodes)
        fork.turns, fork.failure, fork.recorded = self.turns, self.failure, list(self.recorded)
        fork._transcript, fork._known = self._transcript.copy(), self._known.copy()
        fork._asked, fork._issued = self._asked, self._issued
        return fork

    def _finished(self, task: asyncio.Task[Turn], call: Call, name: str | None) -> None:
        self._under_way.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if failed and name is not None and self._named.get(name) is call:
            del self._named[name]

    async def _answer(self, ask: Ask, engine: Engine, renderer: Renderer, call: Call, index: int, live: bool) -> Turn:
        if self.closed:
            raise refusal.unknown_session()
        walk = self._known.walk(ask.messages, ask.tools)
        prompt, after = await self._prompt(ask, walk, renderer)
        forced = forced_ids(ask.demand, renderer)
        prompt.extend(forced)
        call.prompt, call.forced = prompt, len(forced)
        sampling, cut = self._sampling_for(ask, index), None
        try:
            async with self._shared.places.place(self.key) if self._shared else contextlib.nullcontext():
                if ask.stop:
                    completion, cut = await sample_until(engine, call.prompt, sampling, ask.stop, renderer, call.each)
                elif live and isinstance(engine, StreamingEngine):
                    completion = await engine.stream(call.prompt, sampling, call.each)
                else:
                    completion = await engine.complete(call.prompt, sampling)
                scores = await engine.score(call.prompt) if ask.scored else None
        except ContextExhausted as error:
            self.failure = Failure.CONTEXT_EXHAUSTED
            raise refusal.ContextRefusal(engine.context_tokens, len(call.prompt)) from error
        except EngineError as error:
            self.failure = Failure.ENGINE_ERROR
            raise refusal.engine_failed(str(error)) from error
        except Exception as error:
            if isinstance(error, ValueError) and ask.prompt_ids is not None:
                raise refusal.malformed("prompt", f"{error}.") from error
            self.failure = Failure.ENGINE_ERROR
            raise
        if self.closed:
            raise refusal.unknown_session()
        text = renderer.decode(forced) + cut.text if cut else None
        answer = readable((*forced, *completion.token_ids), renderer, text)
        turn = self._record(call, ask, walk, after, completion, answer)
        if self._journal is not None:
            onto = walk.answered[1] if after != ROOT else None
            await self._write_down(recorded(self.key, turn, onto, prompt, answer, index, ask))
        return replace(turn, scores=scores, stop=cut.string if cut else None)

    async def _prompt(self, ask: Ask, walk: Walk, renderer: Renderer) -> tuple[array[int], int]:
        """Return the ids of the prompt, and the node of the tree up to which they are known to be the same.

        The longest conversation that the session answered is extended; without one, all is told anew.
        """
        if ask.prompt_ids is not None:
            return array("i", ask.prompt_ids), ROOT
        length, turn = walk.answered
        if turn is not None:
            known = (*turn.messages, turn.answer)
            new = _with_our_call_ids(ask.messages[length:], walk.call_ids, turn.call_ids)
            onward = partial(renderer.onward, turn.completion.token_ids, known, new, ask.tools)
            before = array("i")
            before.frombytes(self.tree.path_ids(turn.leaf).tobytes())
            with contextlib.suppress(PrefixBroken, TemplateRefused):
                before.extend(await self._off_loop(new, onward))
                return before, turn.leaf
        try:
            return array(
                "i", await self._off_loop(ask.messages, partial(renderer.prompt, ask.messages, ask.tools))
            ), ROOT
        except TemplateRefused as error:
            reason = str(error).removeprefix(f"{renderer.source}: ")  # where the model lies is not the agent's affair
            raise refusal.malformed("messages", reason) from error

    async def _off_loop(self, messages: Sequence[Message], tokenise: Callable[[], list[int]]) -> list[int]:
        """Tokenise here or in the thread for it, by how much there is to do."""
        if self._shared and sum(len(message.content) for message in messages) > OFF_LOOP_CHARS:
            return await asyncio.get_running_loop().run_in_executor(self._shared.tokenising, tokenise)
        return tokenise()

    def _sampling_for(self, ask: Ask, index: int) -> Sampling:
        """Return the rollout's own sampling, bounded by what the agent asked for, with a seed of this turn."""
        sampling = self._sampling
        if self._honour:
            liked = {name: getattr(ask, name) for name in ("temperature", "top_p", "top_k", "seed")}
            sampling = replace(sampling, **{name: value for name, value in liked.items() if value is not None})
        elif sampling.seed is not None:
            sampling = replace(sampling, seed=turn_seed(sampling.seed, index))
        bounds = [bound for bound in (sampling.max_tokens, self._cap, ask.max_tokens) if bound is not None]
        return replace(sampling, max_tokens=min(bounds), stop_ids=(*sampling.stop_ids, *ask.stop_ids))

    def _record(self, call: Call, ask: Ask, walk: Walk, after: int, completion: Completion, parsed: Message) -> Turn:
        leaf = self.tree.commit(call.prompt, completion.token_ids, completion.logprobs, completion.version, after=after)
        if completion.routes_TLK is not None:
            self.tree.write("route", leaf, with_earlier(self.tree, leaf, completion.routes_TLK))
        answer = replace(parsed, tool_calls=tuple(replace(one, id=self._next_call_id()) for one in parsed.tool_calls))
        turn = Turn(
            id=call.id,
            messages=ask.messages,
            tools=ask.tools,
            prompt_tokens=len(call.prompt),
            completion=completion,
            answer=answer,
            tree=self.tree,
            leaf=leaf,
            number=self.turns,
            call_ids=(*walk.call_ids, *(one.id for one in answer.tool_calls)),
            forced=call.forced,
        )
        self.recorded.append(turn)
        self._tell_metrics(turn)
        call.prompt = ()
        raw = ask.prompt_ids is not None  # then there are no messages that a later request could go on from
        self._transcript.add(
            turn.messages,
            walk,
            turn.answer,
            b"" if raw else self._known.learn(walk, turn),
            self.turns,
            prompt_tokens=turn.prompt_tokens,
            completion_tokens=len(turn.completion.token_ids),
            leaf=turn.leaf,
            **({"forced_tokens": turn.forced} if turn.forced else {}),
        )
        self.turns += 1
        self.failure = None
        return turn

    def replay(
        self,
        ask: Ask,
        prompt: Sequence[int],
        after: int,
        completion: Completion,
        answer: Message,
        *,
        call_id: str,
        index: int,
        forced: int = 0,
    ) -> Turn:
        """Record a turn as a journal tells it; turns come in the order in which they were recorded."""
        call = Call()
        call.id, call.prompt, call.forced = call_id, prompt, forced
        self._asked = max(self._asked, index + 1)
        return self._record(call, ask, self._known.walk(ask.messages, ask.tools), after, completion, answer)

    async def _write_down(self, record: Recorded) -> None:
        """Return when the turn is in the journal. Raises `Refusal` (503)."""
        assert self._journal is not None
        try:
            await self._journal.append(write(record))
        except OSError as error:
            self.failure = Failure.ENGINE_ERROR
            raise refusal.not_kept(error.strerror or str(error)) from error

    def _tell_metrics(self, turn: Turn) -> None:
        if self._shared is None:
            return
        metrics = self._shared.metrics
        metrics.count("turns_total")
        metrics.count("tokens_total", 'kind="prompt"', turn.prompt_tokens)
        metrics.count("tokens_total", 'kind="sampled"', len(turn.completion.token_ids))
        metrics.count("forks_total", by=int(self.tree.parts_at(turn.leaf)))

    def _next_call_id(self) -> str:
        """Return ``call00000``, ``call00001``...: no underscore and nine characters, as the pickiest agents want."""
        self._issued += 1
        return f"call{self._issued - 1:05d}"


def turn_seed(seed: int, turn: int) -> int:
    """Return the seed of the turn-th answer of a session: the first 63 bits of BLAKE2b of "seed/turn"."""
    return int.from_bytes(blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()) >> 1


def _with_our_call_ids(new: Sequence[Message], theirs: Sequence[str], ours: Sequence[str]) -> list[Message]:
    """Return what is `new` with results naming calls as we do: `ours` are the ids of the calls before, and the first of
    `theirs`, which go on beyond, are how the agent names these."""
    places = [position(theirs[: len(ours)], message.tool_call_id) for message in new]
    return [
        message if place is None or ours[place] == message.tool_call_id else replace(message, tool_call_id=ours[place])
        for message, place in zip(new, places, strict=True)
    ]
