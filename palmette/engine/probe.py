"""What an engine that is already running really does, behaviour by behaviour, with numbers.

`palmette.engine.conformance` is for engines that a test may make, load and close as it likes, and demands equality.
Here the engine is somebody's server with unknown weights in low precision: each behaviour is measured and judged.
Weights are never changed.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from palmette.engine.api import (
    Completion,
    ContextExhausted,
    Engine,
    EngineError,
    FinishReason,
    Sampling,
    StreamingEngine,
)
from palmette.engine.remote import RemoteEngine
from palmette.engine.remote_wire import Refused

CLOSE, FAR = 0.02, 0.1  # mean |difference| of log-probs, nats: bf16 kernels stay below the one, faults pass the other
_LARGEST_CONTEXT = 8192  # that is filled to see where it ends


class Verdict(StrEnum):
    """How a behaviour does."""

    OK = "ok"
    WEAK = "weak"  # usable; training is noisier or less reproducible than it could be
    WRONG = "wrong"  # what is trained on would not be what was sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One behaviour of an engine: what was seen, and `numbers` behind it."""

    name: str
    verdict: Verdict
    detail: str
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """How the log-probs of sampled tokens differ from `score`'s over N tokens.

    `kl` estimates KL(sampler || scorer) in nats a token, by mean(exp(d) - 1 - d) with d = scored - sampled, which is
    never negative (Schulman's k3).
    """

    tokens: int
    mean: float
    largest: float
    kl: float

    @classmethod
    def of(cls, sampled_N: Sequence[float], scored_N: Sequence[float]) -> Mismatch:
        """Compare the same tokens' log-probs."""
        d_N = [scored - sampled for sampled, scored in zip(sampled_N, scored_N, strict=True)]
        return cls(
            tokens=len(d_N),
            mean=statistics.fmean(map(abs, d_N)),
            largest=max(map(abs, d_N)),
            kl=statistics.fmean(math.expm1(min(d, 50.0)) - d for d in d_N),
        )

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """Return them by name."""
        values = {"tokens": self.tokens, "mean_abs": self.mean, "max_abs": self.largest, "kl": self.kl}
        return {f"{prefix}{name}": float(value) for name, value in values.items()}


async def probe(
    engine: Engine, *, vocab: int = 128, tokens: int = 32, only: Sequence[str] = ()
) -> AsyncIterator[Finding]:
    """Yield one finding a behaviour (of `PROBES`, or `only` some); what raises is a wrong one.

    Prompts are made of the ids 0..`vocab`-1, answers have at most `tokens`.
    """
    bench = _Bench(engine, vocab, tokens)
    for name, measure in ((name, PROBES[name]) for name in only or PROBES):
        try:
            verdict, detail, numbers = await measure(bench)
        except (EngineError, ValueError, AssertionError) as error:
            verdict, detail, numbers = Verdict.WRONG, str(error) or type(error).__name__, {}
        yield Finding(name=name, verdict=verdict, detail=detail, numbers=numbers)


_Measured = tuple[Verdict, str, dict[str, float]]


class _Bench:
    """The engine and prompts for it."""

    def __init__(self, engine: Engine, vocab: int, tokens: int) -> None:
        self.engine = engine
        self.vocab = vocab
        self.length = max(4, min(48, engine.context_tokens // 4))
        self.tokens = max(4, min(tokens, engine.context_tokens // 4))

    def prompt(self, seed: int, length: int | None = None) -> tuple[int, ...]:
        """Return ids that differ from seed to seed from the first on."""
        return tuple((seed * 37 + t * t * (seed + 3) + 5 * t) % self.vocab for t in range(length or self.length))

    def greedy(self, max_tokens: int | None = None) -> Sampling:
        return Sampling(max_tokens=max_tokens or self.tokens, temperature=0.0)

    async def mismatch(self, **how: float) -> Mismatch:
        """Compare eight sampled completions with their scores."""

        async def one(k: int) -> tuple[Sequence[float], Sequence[float]]:
            prompt = self.prompt(k)
            done = await self.engine.complete(prompt, Sampling(max_tokens=self.tokens, seed=k, **how))  # type: ignore[arg-type]
            return done.logprobs, (await self.engine.score((*prompt, *done.token_ids)))[len(prompt) - 1 :]

        pairs = await asyncio.gather(*map(one, range(8)))
        return Mismatch.of([s for sampled, _ in pairs for s in sampled], [s for _, scored in pairs for s in scored])


async def _tokens(bench: _Bench) -> _Measured:
    done = await bench.engine.complete(bench.prompt(0), Sampling(max_tokens=bench.tokens, seed=1))
    assert done.token_ids, "no token came back"
    assert len(done.token_ids) == len(done.logprobs), "tokens and log-probs differ in number"
    assert all(math.isfinite(s) and s <= 1e-3 for s in done.logprobs), "a log-prob is above 0 or not finite"
    return Verdict.OK, f"{len(done.token_ids)} ids with a log-prob each", {"tokens": len(done.token_ids)}


async def _length(bench: _Bench) -> _Measured:
    for k in range(4):
        done = await bench.engine.complete(bench.prompt(k), Sampling(max_tokens=3, seed=k))
        assert len(done.token_ids) <= 3, f"{len(done.token_ids)} tokens came, at most 3 were asked for"
        full = len(done.token_ids) == 3
        assert full or done.finish_reason is FinishReason.STOP, "a short completion is said to have met its limit"
    return Verdict.OK, "never more than max_tokens", {}


async def _logprobs(bench: _Bench) -> _Measured:
    seen = await bench.mismatch(temperature=1.0)
    detail = f"|sampled - scored| mean {seen.mean:.2g}, max {seen.largest:.2g}; KL {seen.kl:.2g} nats a token"
    return _judged(seen.mean), detail, seen.numbers()


async def _temperature(bench: _Bench) -> _Measured:
    plain = await bench.mismatch(temperature=1.0)
    warm, cut = await bench.mismatch(temperature=0.5), await bench.mismatch(temperature=1.0, top_p=0.7)
    detail = (
        f"mean |sampled - scored| {plain.mean:.2g}; at temperature 0.5 {warm.mean:.2g}, at top_p 0.7 {cut.mean:.2g}"
    )
    numbers = plain.numbers() | warm.numbers("half_") | cut.numbers("top_p_")
    if max(warm.mean, cut.mean) > 3 * plain.mean + CLOSE:
        hint = "log-probs are those after temperature or truncation: start SGLang with SGLANG_RETURN_ORIGINAL_LOGPROB=1"
        return Verdict.WRONG, f"{detail}; {hint}, vLLM with --logprobs-mode raw_logprobs", numbers
    return Verdict.OK, detail, numbers


async def _greedy(bench: _Bench) -> _Measured:
    runs = [await bench.engine.complete(bench.prompt(2), bench.greedy()) for _ in range(3)]
    same = min(_common(runs[0], other) for other in runs[1:])
    return _same(same, len(runs[0].token_ids), "tokens are the same in three runs at temperature 0")


async def _stops(bench: _Bench) -> _Measured:
    free = (await bench.engine.complete(bench.prompt(3), bench.greedy())).token_ids
    stop = free[len(free) // 2]
    first = free.index(stop)
    sampling = Sampling(max_tokens=bench.tokens, temperature=0.0, stop_ids=(stop,))
    done = await bench.engine.complete(bench.prompt(3), sampling)
    assert done.finish_reason is FinishReason.STOP, "a stop id did not stop it"
    assert done.token_ids[-1] == stop, "the stop token is not among the ids: the tree would lack a sampled token"
    verdict = Verdict.OK if done.token_ids == free[: first + 1] else Verdict.WEAK
    return verdict, f"ends with stop id {stop}, its last token", {}


async def _seeds(bench: _Bench) -> _Measured:
    async def one(seed: int) -> Completion:
        return await bench.engine.complete(bench.prompt(4), Sampling(max_tokens=bench.tokens, seed=seed))

    first, again, other = await one(11), await one(11), await one(12)
    if first.token_ids != again.token_ids:
        return Verdict.WEAK, "the same seed gives other tokens: runs cannot be repeated", {}
    differs = "another seed others" if other.token_ids != first.token_ids else "another seed the same"
    return Verdict.OK, f"the same seed gives the same tokens, {differs}", {}


async def _context(bench: _Bench) -> _Measured:
    context = bench.engine.context_tokens
    try:
        await bench.engine.complete(bench.prompt(5, context), bench.greedy(1))
    except ContextExhausted:
        pass
    else:
        raise AssertionError(f"a prompt of {context} tokens was taken, which is the whole context")
    if context > _LARGEST_CONTEXT:
        return Verdict.OK, f"{context} tokens; not filled, as that takes long", {"context_tokens": context}
    last = await bench.engine.complete(bench.prompt(5, context - 1), bench.greedy(9))
    assert len(last.token_ids) == 1, "more tokens came than the context has room for"
    return Verdict.OK, f"{context} tokens, filled to the last", {"context_tokens": context}


async def _streams(bench: _Bench) -> _Measured:
    if not isinstance(bench.engine, StreamingEngine):
        return Verdict.WEAK, "it does not stream", {}
    told: list[tuple[int, float]] = []
    sampling = Sampling(max_tokens=bench.tokens, temperature=0.0)
    done = await bench.engine.stream(bench.prompt(6), sampling, lambda *one: told.append(one))
    assert told == list(zip(done.token_ids, done.logprobs, strict=True)), (
        "a stream told other tokens than it ended with"
    )
    whole = await bench.engine.complete(bench.prompt(6), sampling)
    return _same(_common(done, whole), len(whole.token_ids), "tokens are those of an answer at once")


async def _cancels(bench: _Bench) -> _Measured:
    prompts = [bench.prompt(k) for k in range(4)]
    alone = [await bench.engine.complete(prompt, bench.greedy()) for prompt in prompts]
    tasks = [asyncio.ensure_future(bench.engine.complete(prompt, bench.greedy())) for prompt in prompts]
    await asyncio.sleep(0.01)
    for task in tasks[::2]:
        task.cancel()
    rest = await asyncio.gather(*tasks, return_exceptions=True)
    for answer in rest[1::2]:
        if isinstance(answer, BaseException):
            raise EngineError(f"a request failed when another was cancelled: {answer}")
    same = sum(_common(alone[k], rest[k]) for k in (1, 3))  # type: ignore[arg-type]
    return _same(same, sum(len(alone[k].token_ids) for k in (1, 3)), "tokens of the others are as they are alone")


async def _crowd(bench: _Bench) -> _Measured:
    prompts = [bench.prompt(k, 3 + (7 * k) % bench.length) for k in range(16)]
    alone = [await bench.engine.complete(prompt, bench.greedy()) for prompt in prompts]
    together = await asyncio.gather(*(bench.engine.complete(prompt, bench.greedy()) for prompt in prompts))
    same = sum(_common(one, other) for one, other in zip(alone, together, strict=True))
    return _same(same, sum(len(one.token_ids) for one in alone), "tokens of 16 at once are as they are alone")


async def _prefixes(bench: _Bench) -> _Measured:
    prompt = bench.prompt(97, max(8, min(192, bench.engine.context_tokens // 2)))
    cold = await bench.engine.complete(prompt, bench.greedy())
    warm = await bench.engine.complete(prompt, bench.greedy())
    again = await bench.engine.complete((*prompt, *cold.token_ids[:4]), bench.greedy())
    scores = (await bench.engine.score((*prompt, *cold.token_ids)))[len(prompt) - 1 :]
    same = _common(cold, warm)
    reused = Mismatch.of(cold.logprobs[:same], warm.logprobs[:same]) if same else Mismatch.of([0.0], [1.0])
    goes_on = same > 4 and again.token_ids[0] == cold.token_ids[4]
    tail = Mismatch.of(cold.logprobs[4:5], again.logprobs[:1]) if goes_on else reused
    scored = Mismatch.of(cold.logprobs, scores)
    worst = max(reused.mean, tail.mean, scored.mean)
    detail = f"mean |difference| {reused.mean:.2g} on a second asking, {tail.mean:.2g} over a longer prefix, "
    numbers = reused.numbers("again_") | tail.numbers("longer_") | scored.numbers("scored_")
    return _judged(worst), f"{detail}{scored.mean:.2g} to its score", numbers


async def _version(bench: _Bench) -> _Measured:
    done = await bench.engine.complete(bench.prompt(7), bench.greedy(1))
    if not getattr(bench.engine, "names_version", True):
        return Verdict.WEAK, "its answers name no weight version: nobody else may change the weights", {}
    return Verdict.OK, f"answers name the weights, {done.version} now", {"version": done.version}


async def _routes(bench: _Bench) -> _Measured:
    engine, asked = bench.engine, None
    if isinstance(engine, RemoteEngine):
        asked = engine.experts_per_token
        engine.experts_per_token = asked or 1  # how many there are in a layer nobody has said
    try:
        done = await engine.complete(bench.prompt(8), bench.greedy())
    except Refused as error:
        return Verdict.OK, f"none: asked for them, the server says {error.message}", {}
    finally:
        if isinstance(engine, RemoteEngine):
            engine.experts_per_token = asked or 0
    if done.routes_TLK is None:
        return (
            Verdict.OK,
            "none: no router replay (servers tell them with --enable-return-routed-experts)",
            {},
        )
    known = int((done.routes_TLK >= 0).all((1, 2)).sum())
    experts = done.routes_TLK.shape[1] * done.routes_TLK.shape[2]
    detail = f"{experts} experts a token, over all layers, of {known} of {len(done.routes_TLK)} tokens"
    return Verdict.OK, detail, {"experts": experts, "tokens": len(done.routes_TLK), "known": known}


PROBES: dict[str, Callable[[_Bench], Awaitable[_Measured]]] = {
    "token ids": _tokens,
    "length limit": _length,
    "log-probs": _logprobs,
    "log-probs are raw": _temperature,
    "greedy repeats": _greedy,
    "stop ids": _stops,
    "seeds": _seeds,
    "context": _context,
    "streaming": _streams,
    "cancellation": _cancels,
    "concurrency": _crowd,
    "prefix reuse": _prefixes,
    "weight version": _version,
    "expert routes": _routes,
}
"""Behaviours in the order in which they are measured."""


def _judged(mean: float) -> Verdict:
    return Verdict.OK if mean <= CLOSE else Verdict.WEAK if mean <= FAR else Verdict.WRONG


def _same(same: int, of: int, what: str) -> _Measured:
    share = same / max(1, of)
    return Verdict.OK if same == of else Verdict.WEAK, f"{same} of {of} {what}", {"same": share}


def _common(one: Completion, other: Completion) -> int:
    """Return how many tokens the two have in common before they part."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(one.token_ids), len(other.token_ids)))
