"""Expert routes of servers elsewhere: those of the tokens they computed, or nothing, or an error."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from palmette.chat.message import Message
from palmette.chat.template import Renderer
from palmette.engine.api import Completion, EngineError, Sampling
from palmette.engine.local import LocalEngine
from palmette.engine.probe import probe
from palmette.engine.remote import open_engine
from palmette.engine.remote_routes import listed, packed, padded
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway.ask import Ask
from palmette.gateway.session import Session
from palmette.model.load import resolve_model
from palmette.train.serving import give

Serve = Callable[..., Awaitable[Any]]
PROMPT, SAMPLING = tuple(range(3, 40)), Sampling(max_tokens=7, temperature=0.0)


class Words:
    """Encodes a text, as far as `give` asks."""

    def encode(self, _: str) -> list[int]:
        return list(PROMPT)


def moe_engine(checkpoints: dict[str, Path], *, record: bool = True) -> LocalEngine:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3_moe"])
    return LocalEngine(model, stop_ids=(), threads=1, record_routes=record)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_routes_are_those_of_the_engine_behind(serve: Serve, kind: str, checkpoints: dict[str, Path]) -> None:
    fake = await serve(kind, moe_engine(checkpoints))
    engine = await open_engine(f"{kind}:http://127.0.0.1:{fake.port}", experts_per_token=2)
    wanted = await fake.engine.complete(PROMPT, SAMPLING)
    assert wanted.routes_TLK is not None
    for done in (await engine.complete(PROMPT, SAMPLING), await engine.stream(PROMPT, SAMPLING, lambda *_: None)):
        assert done.routes_TLK is not None
        assert done.routes_TLK.dtype == np.int16
        np.testing.assert_array_equal(done.routes_TLK, wanted.routes_TLK)
        assert done.routes_TLK.shape == (len(PROMPT) + 7, 3, 2)
        assert (done.routes_TLK[-1] == -1).all()
    engine.experts_per_token = 0
    assert (await engine.complete(PROMPT, SAMPLING)).routes_TLK is None
    [found] = [finding async for finding in probe(engine, only=["expert routes"])]
    assert found.numbers["experts"] == 6
    assert found.numbers["known"] == found.numbers["tokens"] - 1
    assert engine.experts_per_token == 0
    await engine.close()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_a_server_without_routes_is_refused_for_replay(
    serve: Serve, kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    fake = await serve(kind, moe_engine(checkpoints, record=False), weights=tmp_path)
    engine = await open_engine(f"{kind}:http://127.0.0.1:{fake.port}", weights_dir=tmp_path, experts_per_token=2)
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3_moe-other"])
    words: Any = Words()
    with pytest.raises(UserError, match="--enable-return-routed-experts"):
        await give(engine, model, 1, words)
    [found] = [finding async for finding in probe(engine, only=["expert routes"])]
    assert found.detail.startswith("none")
    engine.routes_needed = True
    with pytest.raises(EngineError, match="no expert routes"):
        await engine.complete(PROMPT, SAMPLING)
    await engine.close()


async def test_a_server_with_the_routes_of_the_model_is_taken(
    serve: Serve, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    fake = await serve("sglang", moe_engine(checkpoints), weights=tmp_path)
    address, words = f"sglang:http://127.0.0.1:{fake.port}", Words()
    model, call = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3_moe-other"]), {"weights_dir": tmp_path}
    engine = await open_engine(address, experts_per_token=2, **call)
    await give(engine, model, 1, words)  # pyright: ignore[reportArgumentType]
    assert engine.routes_needed
    await engine.close()
    other = await open_engine(address, experts_per_token=1, **call)  # read so, the server routes in twice the layers
    with pytest.raises(UserError, match="routes of 6 layers, and Qwen3MoeForCausalLM has experts in 3"):
        await give(other, model, 2, words)  # pyright: ignore[reportArgumentType]
    await other.close()


def test_routes_of_another_number_of_tokens_are_errors() -> None:
    rows = np.arange(4 * 3 * 2, dtype="<i4").reshape(4, 3, 2)
    told = base64.b64encode(rows.tobytes()).decode()
    np.testing.assert_array_equal(packed(told, 5, 2), rows)
    assert packed(None, 5, 2) is None
    assert listed(None) is None
    for tokens, experts in ((4, 5), (6, 2), (1, 2)):
        with pytest.raises(EngineError, match="routed experts of"):
            packed(told, tokens, experts)
    for nonsense in ("?", 7):
        with pytest.raises(EngineError, match="no base64"):
            packed(nonsense, 5, 2)
    for nonsense in ([[1]], "x", [[[1, 2]], [[3]]], [[[70_000]]]):
        with pytest.raises(EngineError, match="tokens, layers, experts"):
            listed(nonsense)
    assert (padded(rows.astype(np.int16), 5)[-1] == -1).all()
    for tokens in (3, 6):
        with pytest.raises(EngineError, match="routes of 4 tokens"):
            padded(rows.astype(np.int16), tokens)


class Forgetful(ScriptedEngine):
    """Tells the routes of new tokens only, as a server with a cached prefix may."""

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        done = await super().complete(prompt_ids, sampling)
        count = len(self.calls)
        routes_TLK = np.full((len(prompt_ids) + len(done.token_ids), 2, 1), count, np.int16)
        routes_TLK[: (0, len(self.calls[0]) + len(done.token_ids) - 1)[count > 1]] = -1
        routes_TLK[-1] = -1
        return replace(done, routes_TLK=routes_TLK)


async def test_what_an_earlier_answer_told_of_a_prefix_stays() -> None:
    renderer = Renderer.from_dir(resolve_model("palmette:base"))
    engine, session = Forgetful(lambda _: [70, 71, renderer.stop_ids[0]]), Session(Sampling(max_tokens=9))
    said = [Message(role="user", content="one")]
    for _ in range(2):
        call = session.ask(Ask(messages=tuple(said)), engine, renderer)
        with call.following():
            turn = await session.turn(call)
        said += [turn.answer, Message(role="user", content="two")]
    [branch] = session.tree.branches()
    first = len(engine.calls[0]) + 2
    route_T = branch.array("route", fill=-1)[:, 0, 0]
    assert route_T[:first].tolist() == [1] * first
    assert route_T[first:-1].tolist() == [2] * (len(route_T) - first - 1), "with the last token of the first answer"
    assert route_T[-1] == -1
