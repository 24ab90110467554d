"""One request under way: its tokens as they are sampled, its turn at the end, and who still waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from palmette.chat.message import Message, Tool
from palmette.engine.api import Completion
from palmette.trajectory.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answered request: what the engine saw, what it sampled, what that says, and its `leaf` in the tree.

    The last `forced` tokens of the prompt begin the answer: they were given to the model, and are read with what it
    sampled. `scores` are log-probs of the prompt's tokens 1..T-1, where they were asked for; `stop` is the string that
    ended it.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    prompt_tokens: int
    completion: Completion
    answer: Message
    tree: Tree = field(repr=False)
    leaf: int
    number: int  # of turns in its session before it
    forced: int = 0
    scores: tuple[float, ...] | None = None
    stop: str | None = None
    call_ids: tuple[str, ...] = ()  # of the calls in messages and answer, in order

    @property
    def prompt_ids(self) -> list[int]:
        """What the engine saw, read from the tree: a session of many turns does not keep each prompt once more."""
        return self.tree.path_ids(self.leaf)[: self.prompt_tokens].tolist()


class Call:
    """Followed by whoever asked and by whoever asks the same again; when the last one leaves it is cancelled.

    `prompt` is there from the first token to the turn; its last `forced` tokens begin the answer. With `held` no text
    may leave before its end is known. `delivered` says whether somebody was told the whole answer. Once it is answered,
    nothing is kept but the turn.
    """

    __slots__ = (
        "_answered", "_followers", "_logprobs", "_moved", "_task", "_token_ids", "delivered", "forced", "held", "id",
        "prompt"
    )  # fmt: skip

    def __init__(self) -> None:
        self.id = secrets.token_hex(12)
        self.prompt: Sequence[int] = ()
        self.forced = 0
        self.delivered = False
        self.held = False
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._followers = 0
        self._task: asyncio.Task[Turn] | None = None
        self._moved: asyncio.Event | None = asyncio.Event()
        self._answered: Turn | None = None

    def start(self, answering: Coroutine[Any, Any, Turn]) -> asyncio.Task[Turn]:
        """Begin to answer; the task is returned for those who may have to cancel it."""
        self._task = asyncio.ensure_future(answering)
        self._task.add_done_callback(self._end)
        return self._task

    def each(self, token_id: int, logprob: float) -> None:
        """Take the next sampled token."""
        self._token_ids.append(token_id)
        self._logprobs.append(logprob)
        self._move()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Be one of those who wait for the answer."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers and self._task is not None:
                self._task.cancel()  # nothing happens to one that is done

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return self._answered.prompt_tokens if self._answered else len(self.prompt)

    @property
    def prompt_ids(self) -> list[int]:
        """What the engine sees, as plain integers."""
        return self._answered.prompt_ids if self._answered else list(self.prompt)

    @property
    def forced_ids(self) -> list[int]:
        """The tokens of the prompt that begin the answer."""
        ids = (self.prompt_ids if self._answered else self.prompt) if self.forced else ()
        return list(ids[len(ids) - self.forced :])

    @property
    def answered_in_vain(self) -> bool:
        """Whether the answer is recorded and nobody was told all of it."""
        return self._answered is not None and not self.delivered

    @property
    def under_way(self) -> asyncio.Task[Turn] | None:
        """What is done when the call is; None once it is answered."""
        return self._task

    async def turn(self) -> Turn:
        """Return the answer once it is recorded. Raises what answering raised, `CancelledError` if it was cancelled."""
        if self._answered is not None:
            return self._answered
        assert self._task is not None
        return await asyncio.shield(self._task)

    async def tokens(self) -> AsyncIterator[tuple[list[int], list[float]]]:
        """Yield ids and log-probs as they come, several at a time where they came so; all of them, from the first.

        Ends early where answering fails, which `turn` then tells.
        """
        at = 0
        while True:
            moved, task = self._moved, self._task
            if self._answered is not None:
                completion = self._answered.completion
                if at < len(completion.token_ids):
                    yield list(completion.token_ids[at:]), list(completion.logprobs[at:])
                return
            if at < len(self._token_ids):
                ids, logprobs = self._token_ids[at:], self._logprobs[at:]
                at += len(ids)
                yield ids, logprobs
            elif task is None or task.done() or moved is None:
                return
            else:
                await moved.wait()

    def _end(self, task: asyncio.Task[Turn]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._answered = task.result()
            self._task, self._token_ids, self._logprobs = None, [], []
        self._move()
        self._moved = None

    def _move(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = asyncio.Event()
