"""What every engine promises, as checks to run over any implementation: ``for check in CHECKS: await check(subject)``.

A check makes its own engine from the subject and closes it; it fails by AssertionError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from palmette.engine.api import (
    Completion,
    ContextExhausted,
    Engine,
    EngineError,
    FinishReason,
    Sampling,
    StreamingEngine,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An engine under test; it must be able to answer with at least 24 tokens, not all the same, before it stops."""

    make: Callable[[], Engine | Awaitable[Engine]]  # a new engine of version 0, its context at least 128 tokens
    vocab: int  # at least 16
    weights: Callable[[], Mapping[str, Any]]  # other weights that `load` takes
    samples: bool = True  # False where seeds and temperature do not matter


_GREEDY = Sampling(max_tokens=24, temperature=0.0)


async def check_completion(subject: Subject) -> None:
    """Ids lie in the vocabulary, each has a log-prob, the length limit is exact, the version is the engine's."""
    engine = await _opened(subject)
    completion = await engine.complete(_prompt(subject, 0), Sampling(max_tokens=9))
    assert len(completion.token_ids) == len(completion.logprobs) == 9
    assert all(0 <= token < subject.vocab for token in completion.token_ids)
    assert all(logprob <= 0 for logprob in completion.logprobs)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.version == engine.version == 0
    await engine.close()


async def check_score(subject: Subject) -> None:
    """`score` gives the log-probs that `complete` gave, over turns that extend one another, alone and in company."""
    engine = await _opened(subject)
    ids, tails = _prompt(subject, 1), []
    for turn in range(3):
        completion = await engine.complete(ids, Sampling(max_tokens=7 + turn, temperature=0.7, seed=turn))
        tails.append((len(ids), completion.logprobs))
        ids = (*ids, *completion.token_ids, *_prompt(subject, 2 + turn, length=5))
    others = [_prompt(subject, 9), _prompt(subject, 10, length=1)]
    for scores in (await engine.score(ids), (await asyncio.gather(*map(engine.score, (ids, *others))))[0]):
        assert len(scores) == len(ids) - 1
        for start, logprobs in tails:
            _assert_close(scores[start - 1 : start - 1 + len(logprobs)], logprobs)
    assert await engine.score(others[1]) == ()
    await engine.close()


async def check_stop_ids(subject: Subject) -> None:
    """A completion ends with the first stop id, which is its last token."""
    engine = await _opened(subject)
    prompt = _prompt(subject, 2)
    free = (await engine.complete(prompt, _GREEDY)).token_ids
    stop = free[12]
    first = free.index(stop)
    stopped = await engine.complete(
        prompt, Sampling(max_tokens=24, temperature=0.0, stop_ids=(stop, subject.vocab - 1))
    )
    assert stopped.token_ids == free[: first + 1] or stopped.token_ids[-1] == subject.vocab - 1
    assert stopped.finish_reason is FinishReason.STOP
    await engine.close()


async def check_context(subject: Subject) -> None:
    """A prompt that fills the context raises; one that leaves room for a token gets one."""
    engine = await _opened(subject)
    full = _prompt(subject, 3, length=engine.context_tokens)
    await _assert_raises(ContextExhausted, engine.complete(full, Sampling()))
    last = await engine.complete(full[:-1], Sampling())
    assert len(last.token_ids) == 1
    assert last.finish_reason is FinishReason.LENGTH
    await engine.close()


async def check_misuse(subject: Subject) -> None:
    """No ids, ids outside the vocabulary and a token limit below one are `ValueError`s; the engine lives on."""
    engine = await _opened(subject)
    await _assert_raises(ValueError, engine.complete((), Sampling()))
    await _assert_raises(ValueError, engine.complete((-1,), Sampling()))
    await _assert_raises(ValueError, engine.complete(_prompt(subject, 0), Sampling(max_tokens=0)))
    await engine.complete(_prompt(subject, 0), Sampling(max_tokens=1))
    await engine.close()


async def check_concurrent(subject: Subject) -> None:
    """Requests of different lengths that join at different times get what each gets alone, under greedy decoding."""
    prompts = [_prompt(subject, k, length=3 + 11 * k % 50) for k in range(10)]
    prompts += prompts[:3]
    engine = await _opened(subject)
    alone = [await engine.complete(prompt, _GREEDY) for prompt in prompts]
    await engine.close()
    engine = await _opened(subject)

    async def late(prompt: tuple[int, ...], steps: int) -> Completion:
        await asyncio.sleep(0.003 * steps)
        return await engine.complete(prompt, _GREEDY)

    together = await asyncio.gather(*(late(prompt, k % 4) for k, prompt in enumerate(prompts)))
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        _assert_close(one.logprobs, other.logprobs)
    await engine.close()


async def check_seeds(subject: Subject) -> None:
    """A seed gives the same completion alone and in company; another seed another one."""
    engine = await _opened(subject)
    prompt, sampling = _prompt(subject, 4), Sampling(max_tokens=24, seed=11)
    alone = await engine.complete(prompt, sampling)
    company = [engine.complete(_prompt(subject, k), Sampling(max_tokens=30, temperature=1.5)) for k in range(6)]
    again = (await asyncio.gather(engine.complete(prompt, sampling), *company))[0]
    assert alone.token_ids == again.token_ids
    _assert_close(alone.logprobs, again.logprobs)
    if subject.samples:
        others = [await engine.complete(prompt, Sampling(max_tokens=24, seed=seed)) for seed in (12, 13)]
        assert len({alone.token_ids, *(other.token_ids for other in others)}) == 3
    await engine.close()


async def check_cancel(subject: Subject) -> None:
    """A cancelled request leaves the others alone."""
    engine = await _opened(subject)
    prompts = [_prompt(subject, k) for k in range(5)]
    alone = [await engine.complete(prompt, _GREEDY) for prompt in prompts]
    tasks = [asyncio.ensure_future(engine.complete(prompt, _GREEDY)) for prompt in prompts]
    await asyncio.sleep(0.005)
    tasks[1].cancel()
    tasks[4].cancel()
    rest = await asyncio.gather(*tasks, return_exceptions=True)
    for k in (0, 2, 3):
        answer = rest[k]
        assert isinstance(answer, Completion)
        assert answer.token_ids == alone[k].token_ids
    await engine.close()


async def check_stream(subject: Subject) -> None:
    """A stream tells what `complete` returns, token by token; a cancelled one falls silent at once.

    Nothing is checked of an engine that does not stream.
    """
    engine = await _opened(subject)
    if isinstance(engine, StreamingEngine):
        prompt, sampling = _prompt(subject, 6), Sampling(max_tokens=24, seed=3)
        told: list[tuple[int, float]] = []
        streamed = await engine.stream(prompt, sampling, lambda token, logprob: told.append((token, logprob)))
        assert told == list(zip(streamed.token_ids, streamed.logprobs, strict=True))
        whole = await engine.complete(prompt, sampling)
        assert (streamed.token_ids, streamed.finish_reason) == (whole.token_ids, whole.finish_reason)
        _assert_close(streamed.logprobs, whole.logprobs)
        await _check_silence(engine, prompt, sampling)
    await engine.close()


async def _check_silence(engine: StreamingEngine, prompt: tuple[int, ...], sampling: Sampling) -> None:
    """Cancel at the third token: an engine that tells all of them at its end would go on."""
    heard: list[int] = []

    def each(token: int, logprob: float) -> None:
        heard.append(token)
        if len(heard) == 3:
            streaming.cancel()

    streaming = asyncio.ensure_future(engine.stream(prompt, sampling, each))
    await asyncio.gather(streaming, return_exceptions=True)
    assert streaming.cancelled()
    assert len((await engine.complete(prompt, sampling)).token_ids) == 24
    assert len(heard) == 3, f"{len(heard)} tokens were told, although the third cancelled the request"


async def check_load(subject: Subject) -> None:
    """What was asked before a load keeps the old version; afterwards the new one is carried, cached prefixes or not."""
    engine = await _opened(subject)
    prompt = _prompt(subject, 5, length=40)
    before = await engine.complete(prompt, _GREEDY)
    under_way = [asyncio.ensure_future(engine.complete(prompt, _GREEDY)) for _ in range(3)]
    await asyncio.sleep(0)  # they are asked, then the load is
    await engine.load(subject.weights(), 7)
    assert engine.version == 7
    for completion in await asyncio.gather(*under_way):
        assert completion.version == 0
        assert completion.token_ids == before.token_ids
    after = await engine.complete(prompt, _GREEDY)
    assert after.version == 7
    scores = await engine.score((*prompt, *after.token_ids))
    _assert_close(scores[len(prompt) - 1 :], after.logprobs)
    if subject.samples:
        assert max(abs(a - b) for a, b in zip(before.logprobs, after.logprobs, strict=False)) > 1e-3
    await engine.close()


async def check_close(subject: Subject) -> None:
    """Closing twice is fine; what is under way or comes later raises `EngineError`."""
    engine = await _opened(subject)
    under_way = [asyncio.ensure_future(engine.complete(_prompt(subject, k), _GREEDY)) for k in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    for answer in await asyncio.gather(*under_way, return_exceptions=True):
        assert isinstance(answer, EngineError)
    await _assert_raises(EngineError, engine.complete(_prompt(subject, 0), _GREEDY))
    await _assert_raises(EngineError, engine.score(_prompt(subject, 0)))
    await _assert_raises(EngineError, engine.load(subject.weights(), 1))


CHECKS: tuple[Callable[[Subject], Awaitable[None]], ...] = (
    check_completion,
    check_score,
    check_stop_ids,
    check_context,
    check_misuse,
    check_concurrent,
    check_seeds,
    check_cancel,
    check_stream,
    check_load,
    check_close,
)


async def _opened(subject: Subject) -> Engine:
    made = subject.make()
    return await made if isinstance(made, Awaitable) else made


def _prompt(subject: Subject, seed: int, length: int = 37) -> tuple[int, ...]:
    return tuple((seed * 7 + t * t * (seed + 3) + 5 * t) % (subject.vocab - 1) for t in range(length))


def _assert_close(one: tuple[float, ...], other: tuple[float, ...], tolerance: float = 1e-4) -> None:
    assert len(one) == len(other)
    worst = max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
    assert worst <= tolerance, f"log-probs differ by {worst}"


async def _assert_raises(kind: type[BaseException], call: Awaitable[Any]) -> None:
    try:
        await call
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
