"""An engine that is a server elsewhere: vLLM, SGLang, or this project's own ``palmette serve``, by URL.

Tokens go in and come out; text never does. A request is asked again only where the server took no work (429, 503,
nobody listens); once it may have sampled, a failure is an `EngineError`, and what to do about it is the rollout's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from palmette.engine.api import Completion, ContextExhausted, Each, EngineError, FinishReason, Sampling
from palmette.engine.remote_routes import padded
from palmette.engine.remote_wire import Refused, Wire
from palmette.errors import UserError

_Answer = TypeVar("_Answer")
_FULL = re.compile(r"context length|maximum context|max_model_len|longer than the (model|maximum)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server says of itself: its model's name, its context, and its weight version where it has a number."""

    model: str
    context_tokens: int
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Newly sampled tokens of one answer; the last piece has the reason. `version` is None where nobody says.

    `routes_TLK`, of the last piece, are experts of all tokens of prompt and answer, or all but the last.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: FinishReason | None
    version: int | None
    routes_TLK: np.ndarray | None = None


class Format(Protocol):
    """How one kind of server wants to be asked."""

    name: str
    streams_routes: bool  # whether a stream ends with them too

    async def served(self, wire: Wire) -> Served:
        """Ask what is served. Raises `EngineError`."""
        ...

    def pieces(
        self, wire: Wire, prompt_ids: Sequence[int], sampling: Sampling, *, stream: bool, experts: int = 0
    ) -> AsyncGenerator[Piece, None]:
        """Sample, in one piece or as the server tells them; `sampling.max_tokens` fits the context.

        With a number of `experts` a token and layer, tell routes where the server does.
        """
        ...

    async def score(self, wire: Wire, token_ids: Sequence[int]) -> Sequence[float]:
        """Return log p of tokens 1..T-1, of at least two."""
        ...

    async def load(self, wire: Wire, directory: Path, version: int) -> None:
        """Have the server read its weights anew from `directory` and forget every prefix."""
        ...


class RemoteEngine:
    """Implements `palmette.engine.api.StreamingEngine` over HTTP, e.g. ``await open_engine("vllm:http://gpu7:8000")``.

    `stop_ids` end every completion, beside what the server's own configuration stops at. `weights_dir` is a directory
    that this machine and the server both see, and (vLLM) that the server was started from: `load` writes
    ``model.safetensors`` there and has it read; without one, `load` raises. Others may use the server at the same time,
    but nobody else may change its weights. `timeout_s` bounds one request. With `experts_per_token` of a mixture of
    experts, completions have the routes that the server tells, None where it tells none; 0 does not ask.
    """

    def __init__(
        self,
        wire: Wire,
        form: Format,
        served: Served,
        *,
        stop_ids: Sequence[int] = (),
        weights_dir: Path | None = None,
        experts_per_token: int = 0,
    ) -> None:
        self.model = served.model
        self.kind = form.name
        self.names_version = False  # whether the last answer named the version that sampled it
        self.experts_per_token = experts_per_token
        self.routes_needed = False  # whether an answer without routes (of a preempted request, say) is an `EngineError`
        self._wire = wire
        self._form = form
        self._context = served.context_tokens
        self._version = served.version or 0
        self._given: int | None = None  # the version of the last `load`
        self._stop_ids = tuple(stop_ids)
        self._weights_dir = weights_dir
        self._under_way: set[asyncio.Task[Any]] = set()
        self._asking = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._settled = asyncio.Event()  # no load under way
        self._settled.set()
        self._closed = False

    @property
    def version(self) -> int:
        """Weight version that the next completion will carry; 0 for a server that has none until the first `load`."""
        return self._version

    @property
    def context_tokens(self) -> int:
        """Most tokens (prompt and completion together) of one sequence."""
        return self._context

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion. Raises `ContextExhausted`, `EngineError`, `ValueError`."""
        return await self._tracked(self._sample(self._checked(prompt_ids, sampling), sampling, None, None))

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each) -> Completion:
        """Do as `complete` does, and tell `each` every token as the server tells it."""
        asker = asyncio.current_task()
        return await self._tracked(self._sample(self._checked(prompt_ids, sampling), sampling, each, asker))

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return log p(token t | tokens before t) for t = 1..T-1; a server needs room for one token more."""
        ids = _ids(token_ids)
        if len(ids) >= self._context:
            raise ContextExhausted(f"the sequence has {len(ids)} tokens and needs room for one more in {self._context}")
        return await self._tracked(self._scored(ids))

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Write the weights where the server reads them and have it read them, when nothing asked here is under way.

        Raises `EngineError` where there is no `weights_dir`, the server refuses, or it names another version
        afterwards; completions then carry the old version. Answers of a version that was not given are errors.
        """
        if self._weights_dir is None:
            raise EngineError(f"{self._wire.url} shares no directory with this machine: name one as weights_dir")
        await self._tracked(self._loaded(weights, version, self._weights_dir))

    async def close(self) -> None:
        """Hang up; requests still under way raise `EngineError`. The server goes on. Idempotent."""
        self._closed = True
        left = list(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._wire.close()

    def _checked(self, prompt_ids: Sequence[int], sampling: Sampling) -> tuple[int, ...]:
        prompt = _ids(prompt_ids)
        if len(prompt) >= self._context:
            raise ContextExhausted(f"the prompt has {len(prompt)} tokens, the context {self._context}")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {sampling.max_tokens}")
        return prompt

    async def _sample(
        self, prompt: tuple[int, ...], sampling: Sampling, each: Each | None, asker: asyncio.Task[Any] | None
    ) -> Completion:
        asked = replace(
            sampling,
            max_tokens=min(sampling.max_tokens, self._context - len(prompt)),
            stop_ids=tuple(dict.fromkeys((*self._stop_ids, *sampling.stop_ids))),
        )
        async with self._between_loads():
            version = self._version
            pieces = await self._wire.patiently(lambda: self._pieces(prompt, asked, each, asker))
        versions = {piece.version for piece in pieces if piece.version is not None}
        if len(versions) > 1:
            raise EngineError(f"the weights changed under a completion: versions {sorted(versions)}")
        self.names_version = bool(versions)
        if versions:
            named = versions.pop()
            if self._given is not None and named != version:
                raise EngineError(f"somebody else changed the weights: version {named} answered, {version} was given")
            self._version = version = named
        last = pieces[-1] if pieces else None
        if last is None or last.finish_reason is None:
            raise EngineError("the server ended its answer without a reason")
        token_ids = tuple(token for piece in pieces for token in piece.token_ids)
        routes_TLK = last.routes_TLK
        if routes_TLK is None and self.routes_needed:
            raise EngineError("the server told no expert routes of this answer")
        return Completion(
            token_ids=token_ids,
            logprobs=tuple(logprob for piece in pieces for logprob in piece.logprobs),
            finish_reason=last.finish_reason,
            version=version,
            routes_TLK=None if routes_TLK is None else padded(routes_TLK, len(prompt) + len(token_ids)),
        )

    async def _pieces(
        self, prompt: tuple[int, ...], sampling: Sampling, each: Each | None, asker: asyncio.Task[Any] | None
    ) -> list[Piece]:
        pieces: list[Piece] = []
        with _overflow_typed():
            streamed = each is not None and (self._form.streams_routes or not self.experts_per_token)
            pieces_of = self._form.pieces(self._wire, prompt, sampling, stream=streamed, experts=self.experts_per_token)
            async with aclosing(pieces_of) as told:
                async for piece in told:
                    if len(piece.token_ids) != len(piece.logprobs):
                        counts = f"{len(piece.token_ids)} tokens with {len(piece.logprobs)} log-probs"
                        raise EngineError(f"the server told {counts}")
                    pieces.append(piece)
                    for token, logprob in zip(piece.token_ids, piece.logprobs, strict=True):
                        if each is not None and not (asker and asker.cancelling()):
                            each(token, logprob)
        return pieces

    async def _scored(self, ids: tuple[int, ...]) -> tuple[float, ...]:
        if len(ids) == 1:
            return ()
        async with self._between_loads():
            with _overflow_typed():
                scores = tuple(await self._wire.patiently(lambda: self._form.score(self._wire, ids)))
        if len(scores) != len(ids) - 1:
            raise EngineError(f"the server told {len(scores)} log-probs of {len(ids)} tokens")
        return scores

    async def _loaded(self, weights: Mapping[str, Any], version: int, directory: Path) -> None:
        await self._settled.wait()
        self._settled.clear()
        try:
            await self._idle.wait()
            await asyncio.to_thread(_write, weights, directory)
            await self._form.load(self._wire, directory, version)
            said = (await self._form.served(self._wire)).version
            if said is not None and said != version:
                raise EngineError(f"{self._wire.url} says that it has weights {said} after it was given {version}")
            self._version = self._given = version
        finally:
            self._settled.set()

    @asynccontextmanager
    async def _between_loads(self) -> AsyncIterator[None]:
        """Wait for a load under way, and have the next one wait for this block."""
        await self._settled.wait()
        self._asking += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()

    async def _tracked(self, asking: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Await, so that `close` can end it. Raises `EngineError` when it did."""
        if self._closed:
            asking.close()
            raise EngineError("the engine is closed")
        task = asyncio.ensure_future(asking)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()  # nothing happens to one that is done
        if task.cancelled():
            raise EngineError("the engine was closed")
        return task.result()


async def open_engine(
    address: str,
    *,
    key: str = "",
    stop_ids: Sequence[int] = (),
    weights_dir: Path | None = None,
    timeout_s: float = 1800.0,
    patience_s: float = 120.0,
    experts_per_token: int = 0,
) -> RemoteEngine:
    """Return the engine at ``vllm:URL``, ``sglang:URL`` or, to find out which it is, ``URL`` alone.

    Raises `UserError` when nobody is there or something else is.
    """
    from palmette.engine.remote_sglang import SGLANG
    from palmette.engine.remote_vllm import VLLM

    forms: dict[str, Format] = {"sglang": SGLANG, "vllm": VLLM}  # SGLang has vLLM's routes too: it is asked first
    kind, _, url = address.partition(":")
    tried = list(forms.values()) if url.startswith("//") or kind == "auto" else [forms[kind]] if kind in forms else []
    if not tried:
        raise UserError(f"{address} names no engine: write vllm:URL, sglang:URL, or a URL that begins with http://")
    wire = Wire(address if url.startswith("//") else url, key=key, timeout_s=timeout_s, patience_s=patience_s)
    told: list[str] = []
    for form in tried:
        try:
            served = await form.served(wire)
            return RemoteEngine(
                wire,
                form,
                served,
                stop_ids=stop_ids,
                weights_dir=weights_dir,
                experts_per_token=experts_per_token,
            )
        except EngineError as error:
            told.append(f"{form.name}: {error}")
    await wire.close()
    raise UserError(f"no engine at {wire.url} ({'; '.join(told)}); is it running, and is the address right?")


def version_number(version: Any) -> int | None:
    """Return a server's name of its weights as a number, None where it is none (such as ``default``)."""
    return int(version) if isinstance(version, str | int) and str(version).isdecimal() else None


@contextmanager
def _overflow_typed() -> Iterator[None]:
    """Turn a server's refusal of a sequence that is too long into `ContextExhausted`."""
    try:
        yield
    except Refused as error:
        if error.status in (400, 413, 422) and _FULL.search(error.message):
            raise ContextExhausted(error.message) from error
        raise


def _ids(token_ids: Sequence[int]) -> tuple[int, ...]:
    ids = tuple(map(int, token_ids))
    if not ids:
        raise ValueError("no token ids were given")
    if min(ids) < 0:
        raise ValueError(f"token ids must not be negative, and one is {min(ids)}")
    return ids


def _write(weights: Mapping[str, Any], directory: Path) -> None:
    """Write one file of weights, whole or not at all. Raises `EngineError` for a directory with several."""
    from safetensors.torch import save_file

    if (directory / "model.safetensors.index.json").exists():
        raise EngineError(f"{directory} holds weights in several files, which one file would not replace: merge them")
    part = directory / ".model.safetensors.part"
    try:
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        save_file(kept, part, metadata={"format": "pt"})
        part.rename(directory / "model.safetensors")
    except OSError as error:
        raise EngineError(f"the weights cannot be written to {directory}: {error.strerror}") from error
