"""Engines by URL: the protocol's promises over both wire formats, and what a server may do wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from palmette.engine.api import ContextExhausted, EngineError, FinishReason, Sampling
from palmette.engine.conformance import CHECKS, Subject
from palmette.engine.local import LocalEngine
from palmette.engine.remote import RemoteEngine, open_engine
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError

Serve = Callable[..., Awaitable[Any]]
ONE_AFTER = lambda prompt: [prompt[-1] + k + 1 for k in range(40)]  # noqa: E731


def _answer(prompt: Sequence[int]) -> list[int]:
    return [(sum(prompt) + 17 * t * t + t) % 130 for t in range(64)]


async def _remote(serve: Serve, kind: str, engine: Any, **options: Any) -> tuple[RemoteEngine, Any]:
    more = {
        name: options.pop(name) for name in ("weights_dir", "patience_s", "timeout_s", "stop_ids") if name in options
    }
    fake = await serve(kind, engine, **options)
    return await open_engine(f"{kind}:http://127.0.0.1:{fake.port}", **more), fake


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("kind", "real"), [("vllm", True), ("sglang", False)])
async def test_remote_engine_promises(
    kind: str,
    real: bool,
    check: Callable[[Subject], Awaitable[None]],
    serve: Serve,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    async def make() -> RemoteEngine:
        inner: Any = ScriptedEngine(_answer, context_tokens=128, delay_s=0.01)
        if real:
            model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
            inner = LocalEngine(model, stop_ids=(), threads=1, context_tokens=160)
        return (await _remote(serve, kind, inner, weights=tmp_path, weights_dir=tmp_path))[0]

    def others() -> dict[str, Any]:
        return AutoModelForCausalLM.from_pretrained(checkpoints["qwen3-other"]).state_dict()

    await check(Subject(make=make, vocab=131, weights=others if real else dict, samples=real))


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_the_address_may_leave_the_kind_out(serve: Serve, kind: str) -> None:
    fake = await serve(kind, ScriptedEngine(ONE_AFTER, context_tokens=128))
    engine = await open_engine(f"http://127.0.0.1:{fake.port}/v1/")
    assert (engine.kind, engine.context_tokens, engine.version) == (kind, 128, 0)
    await engine.close()


async def test_addresses_that_lead_nowhere_are_named() -> None:
    for address in ("vllm:http://127.0.0.1:9", "http://127.0.0.1:9"):
        with pytest.raises(UserError, match=r"no engine at http://127\.0\.0\.1:9"):
            await open_engine(address)
    for address in ("trt:http://127.0.0.1:9", "vllm:127.0.0.1:9", "127.0.0.1"):
        with pytest.raises(UserError, match="http://"):
            await open_engine(address)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_full_server_is_asked_again_and_samples_once(serve: Serve, kind: str) -> None:
    faults = [(503, {"error": {"message": "queue full"}}, {}), (429, {"detail": "slow down"}, {"retry-after": "0"})]
    scripted = ScriptedEngine(ONE_AFTER)
    engine, fake = await _remote(serve, kind, scripted, faults=list(faults))
    assert (await engine.complete((7,), Sampling(max_tokens=2))).token_ids == (8, 9)
    fake.faults = list(faults)
    told: list[int] = []
    await engine.stream((7,), Sampling(max_tokens=2), lambda token, _: told.append(token))
    assert told == [8, 9]
    assert scripted.calls == [(7,), (7,)]
    await engine.close()


async def test_patience_has_an_end(serve: Serve) -> None:
    engine, fake = await _remote(serve, "vllm", ScriptedEngine(ONE_AFTER), patience_s=0.3)
    fake.faults = [(503, {"error": {"message": "queue full"}}, {})] * 50
    with pytest.raises(EngineError, match=r"full \(503\): queue full"):
        await engine.complete((7,), Sampling(max_tokens=2))
    await engine.close()


@pytest.mark.parametrize("status", [500, 502, 504, 301])
async def test_what_may_have_been_sampled_is_not_asked_again(serve: Serve, status: int) -> None:
    engine, fake = await _remote(serve, "vllm", ScriptedEngine(ONE_AFTER), faults=[(status, {"error": "x"}, {})])
    before = len(fake.asked)
    with pytest.raises(EngineError, match=str(status)):
        await engine.complete((7,), Sampling(max_tokens=2))
    assert len(fake.asked) == before + 1
    await engine.close()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_the_servers_own_overflow_is_typed(serve: Serve, kind: str) -> None:
    scripted = ScriptedEngine(ONE_AFTER, context_tokens=128)
    engine, _ = await _remote(serve, kind, scripted)
    scripted._context = 64  # the server was started anew with less
    with pytest.raises(ContextExhausted):
        await engine.complete(range(100), Sampling(max_tokens=2))
    await engine.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_cancelled_request_ends_on_the_server(serve: Serve, kind: str, stream: bool) -> None:
    engine, fake = await _remote(serve, kind, ScriptedEngine(ONE_AFTER, delay_s=20.0))
    sampling = Sampling(max_tokens=30)
    asked = engine.stream((1,), sampling, lambda *_: None) if stream else engine.complete((1,), sampling)
    task = asyncio.ensure_future(asked)
    while not any(path in ("/v1/completions", "/generate") for path, _ in fake.asked):
        await asyncio.sleep(0.005)
    task.cancel()
    async with asyncio.timeout(5):
        while not fake.left:
            await asyncio.sleep(0.005)
    await engine.close()


async def test_time_runs_out(serve: Serve) -> None:
    engine, _ = await _remote(serve, "sglang", ScriptedEngine(ONE_AFTER, delay_s=20.0), timeout_s=0.2)
    with pytest.raises(EngineError, match="in time"):
        await engine.complete((1,), Sampling(max_tokens=2))
    await engine.close()


async def test_sglang_tells_only_what_is_new(serve: Serve) -> None:
    engine, _ = await _remote(serve, "sglang", ScriptedEngine(ONE_AFTER), incremental=True)
    told: list[tuple[int, float]] = []
    done = await engine.stream((5,), Sampling(max_tokens=6), lambda *one: told.append(one))
    assert done.token_ids == (6, 7, 8, 9, 10, 11)
    assert told == list(zip(done.token_ids, done.logprobs, strict=True))
    assert done.finish_reason is FinishReason.LENGTH
    await engine.close()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_models_own_penalties_and_truncation_are_overruled(serve: Serve, kind: str) -> None:
    engine, fake = await _remote(serve, kind, ScriptedEngine(ONE_AFTER), stop_ids=(3,))
    await engine.complete((5,), Sampling(max_tokens=6, stop_ids=(4, 3)))
    _, body = fake.asked[-1]
    body = body.get("sampling_params", body)
    assert body["repetition_penalty"] == 1.0
    assert (body["min_p"], body["presence_penalty"], body["frequency_penalty"]) == (0.0, 0.0, 0.0)
    assert (body["top_p"], body["top_k"], body["stop_token_ids"]) == (1.0, -1, [3, 4])
    await engine.close()


def _vllm_answer(**choice: Any) -> dict[str, Any]:
    told = {"logprobs": {"token_logprobs": [-1.0]}, "token_ids": [9], "finish_reason": "stop", "prompt_token_ids": [5]}
    return {"choices": [told | choice]}


def _sglang_answer(**meta: Any) -> dict[str, Any]:
    told = {"completion_tokens": 1, "output_token_logprobs": [[-1.0, 9, None]], "finish_reason": {"type": "stop"}}
    return {"output_ids": [9], "meta_info": told | {"prompt_tokens": 1} | meta}


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        ("vllm", {}, "no choice"),
        ("vllm", _vllm_answer(token_ids=None), "no token_ids"),
        ("vllm", _vllm_answer(prompt_token_ids=[5, 5]), "2 tokens before the model"),
        ("vllm", _vllm_answer(logprobs=None), "1 tokens with 0 log-probs"),
        ("vllm", _vllm_answer(finish_reason="abort"), "'abort'"),
        ("vllm", _vllm_answer(finish_reason=None), "without a reason"),
        ("sglang", {}, "no output_ids"),
        ("sglang", _sglang_answer(prompt_tokens=3), "3 tokens before the model"),
        ("sglang", _sglang_answer(output_token_logprobs=[[-1.0, 8, None]]), "do not agree"),
        ("sglang", _sglang_answer(completion_tokens=2), "do not agree"),
        ("sglang", _sglang_answer(finish_reason={"type": "abort", "message": "gone"}), "'abort': gone"),
        ("sglang", _sglang_answer(weight_versions=[{"version": "1"}, {"version": "2"}]), "versions 1, 2"),
    ],
)
async def test_an_answer_that_is_not_exact_is_an_error(serve: Serve, kind: str, answer: Any, said: str) -> None:
    engine, _ = await _remote(serve, kind, ScriptedEngine(ONE_AFTER), faults=[(200, answer, {})])
    with pytest.raises(EngineError, match=said):
        await engine.complete((5,), Sampling(max_tokens=1))
    await engine.close()


async def test_versions_that_servers_name_are_carried(serve: Serve) -> None:
    answer = _vllm_answer() | {"system_fingerprint": "weights-12"}
    engine, fake = await _remote(serve, "vllm", ScriptedEngine(ONE_AFTER), faults=[(200, answer, {})])
    assert (await engine.complete((5,), Sampling(max_tokens=1))).version == 12
    fake.version = "31"
    again = await open_engine(f"vllm:http://127.0.0.1:{fake.port}")
    assert (await again.complete((5,), Sampling(max_tokens=1))).version == 31
    await engine.close()
    await again.close()


async def test_a_vllm_without_development_routes_keeps_its_weights(serve: Serve, tmp_path: Path) -> None:
    engine, _ = await _remote(serve, "vllm", ScriptedEngine(ONE_AFTER), dev=False, weights_dir=tmp_path)
    with pytest.raises(EngineError, match="VLLM_SERVER_DEV_MODE"):
        await engine.load({}, 4)
    assert engine.version == 0
    assert (await engine.complete((5,), Sampling(max_tokens=1))).version == 0
    await engine.close()


async def test_weights_reach_a_server_whole_or_not_at_all(
    serve: Serve, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    weights = load_file(checkpoints["qwen3-other"] / "model.safetensors")
    engine, fake = await _remote(serve, "sglang", ScriptedEngine(ONE_AFTER), weights=tmp_path, weights_dir=tmp_path)
    await engine.load(weights, 4)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == weights.keys()
    assert all((written[name] == weights[name]).all() for name in weights)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    told = [body for path, body in fake.asked if path == "/update_weights_from_disk"]
    assert told == [{"model_path": str(tmp_path), "weight_version": "4", "flush_cache": True}]
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(EngineError, match="several files"):
        await engine.load(weights, 5)
    await engine.close()


async def test_the_key_is_sent_as_bearer_token(serve: Serve) -> None:
    fake = await serve("vllm", ScriptedEngine(ONE_AFTER))
    seen: list[str] = []
    answer = fake.answer

    async def listening(path: str, body: Any, request: Any) -> Any:
        seen.append(request.headers.get("authorization", ""))
        return await answer(path, body, request)

    fake.answer = listening
    engine = await open_engine(f"vllm:http://127.0.0.1:{fake.port}", key="secret")
    await engine.close()
    assert set(seen) == {"Bearer secret"}


async def test_no_connection_outlives_the_engine(serve: Serve) -> None:
    engine, _ = await _remote(serve, "vllm", ScriptedEngine(ONE_AFTER))
    await engine.complete((5,), Sampling(max_tokens=1))
    await engine.close()
    session = engine._wire._session
    assert isinstance(session, aiohttp.ClientSession)
    assert session.closed
