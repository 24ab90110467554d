"""The probe tells a good engine from one with a fault, and which fault."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from palmette.chat.template import Renderer
from palmette.engine.api import Completion, Sampling
from palmette.engine.local import LocalEngine
from palmette.engine.probe import Finding, Mismatch, Verdict, probe
from palmette.engine.remote import open_engine
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.train.base.tokenizer import train_tokenizer

Serve = Callable[..., Awaitable[Any]]


async def _found(engine: Any, vocab: int = 120) -> dict[str, Finding]:
    return {finding.name: finding async for finding in probe(engine, vocab=vocab, tokens=10)}


@pytest.fixture
def local(checkpoints: dict[str, Path]) -> LocalEngine:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    return LocalEngine(model, stop_ids=(), threads=1, context_tokens=256, version=5)


async def test_the_local_engine_over_http_has_nothing_to_hide(local: LocalEngine, tmp_path: Path) -> None:
    train_tokenizer(["some text"], vocab_size=131, context_tokens=256).save_pretrained(str(tmp_path))
    gateway = Gateway(local, Renderer.from_dir(tmp_path), public_key="")
    await gateway.start()
    engine = await open_engine(f"http://127.0.0.1:{gateway.port}/v1")
    found = await _found(engine)
    assert {name: one.verdict for name, one in found.items() if one.verdict is not Verdict.OK} == {}
    assert len(found) == 14
    assert found["log-probs"].numbers["tokens"] == 8 * 10
    assert found["log-probs"].numbers["max_abs"] < 1e-4
    assert 0 <= found["log-probs"].numbers["kl"] < 1e-8
    assert found["weight version"].numbers == {"version": 5}
    await engine.close()
    await gateway.close()
    await local.close()


class _Scaled(LocalEngine):
    """Log-probs after temperature, as SGLang tells them by default: here simply divided by it."""

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        done = await super().complete(prompt_ids, sampling)
        heat = sampling.temperature or 1.0
        return Completion(
            token_ids=done.token_ids,
            logprobs=tuple(one / heat for one in done.logprobs),
            finish_reason=done.finish_reason,
            version=done.version,
        )


async def test_scaled_log_probs_are_found(checkpoints: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    engine = _Scaled(model, stop_ids=(), threads=1, context_tokens=256)
    found = await _found(engine)
    assert found["log-probs"].verdict is Verdict.OK
    assert found["log-probs are raw"].verdict is Verdict.WRONG
    assert "SGLANG_RETURN_ORIGINAL_LOGPROB" in found["log-probs are raw"].detail
    await engine.close()


def _answer(prompt: Sequence[int]) -> list[int]:
    return [(sum(prompt) + 17 * t * t + t) % 120 for t in range(64)]


class _NoStop(ScriptedEngine):
    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        done = await super().complete(prompt_ids, sampling)
        cut = -1 if done.token_ids[-1] in sampling.stop_ids else len(done.token_ids)
        return Completion(
            token_ids=done.token_ids[:cut],
            logprobs=done.logprobs[:cut],
            finish_reason=done.finish_reason,
            version=done.version,
        )


class _Longer(ScriptedEngine):
    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await super().complete(prompt_ids, Sampling(max_tokens=sampling.max_tokens + 1))


class _Moody(ScriptedEngine):
    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await super().complete((*prompt_ids, len(self.calls)), sampling)


@pytest.mark.parametrize(
    ("kind", "name", "verdict"),
    [
        (_NoStop, "stop ids", Verdict.WRONG),
        (_Longer, "length limit", Verdict.WRONG),
        (_Moody, "greedy repeats", Verdict.WEAK),
        (_Moody, "seeds", Verdict.WEAK),
    ],
)
async def test_a_fault_is_found(kind: type[ScriptedEngine], name: str, verdict: Verdict) -> None:
    found = await _found(kind(_answer, context_tokens=256))
    assert found[name].verdict is verdict, found[name].detail


async def test_doubled_log_probs_and_silent_versions_are_found(serve: Serve, local: LocalEngine) -> None:
    fake = await serve("vllm", local, scaled=True)
    engine = await open_engine(f"vllm:http://127.0.0.1:{fake.port}")
    found = await _found(engine)
    assert found["log-probs"].verdict is Verdict.WRONG
    assert found["weight version"].verdict is Verdict.WEAK
    await engine.close()


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=50))
def test_the_mismatch_is_never_negative_and_zero_for_equals(pairs: list[tuple[float, float]]) -> None:
    sampled, scored = [a for a, _ in pairs], [b for _, b in pairs]
    seen = Mismatch.of(sampled, scored)
    assert seen.kl >= 0
    assert seen.mean <= seen.largest + 1e-12
    assert Mismatch.of(sampled, sampled) == Mismatch(tokens=len(pairs), mean=0.0, largest=0.0, kl=0.0)


def test_the_mismatch_is_the_kl_over_the_samplers_own_draws() -> None:
    sampler, scorer = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
    draws = [k for k, count in enumerate((7, 2, 1)) for _ in range(count)]
    seen = Mismatch.of([math.log(sampler[k]) for k in draws], [math.log(scorer[k]) for k in draws])
    assert seen.kl == pytest.approx(sum(p * math.log(p / q) for p, q in zip(sampler, scorer, strict=True)), abs=1e-12)


async def test_the_command_prints_a_line_a_behaviour(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    from palmette.commands.engine import _check

    fake = await serve("sglang", ScriptedEngine(_answer, context_tokens=256))
    code = await _check(f"http://127.0.0.1:{fake.port}", kind="auto", vocab=120, as_json=False)
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith("sglang at http://127.0.0.1:")
    assert len(printed.splitlines()) == 15
    fake.scaled = True
    assert await _check(f"http://127.0.0.1:{fake.port}", kind="sglang", vocab=120, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["findings"] if one["verdict"] == "wrong"] == ["log-probs", "prefix reuse"]
