"""The scripted engine replays, records and refuses."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from palmette.engine.api import ContextExhausted, EngineError, FinishReason, Sampling
from palmette.engine.scripted import ScriptedEngine


async def test_completions_come_in_order_and_prompts_are_recorded() -> None:
    engine = ScriptedEngine([[5, 6], [7, 8, 9, 8]], version=4)
    first = await engine.complete([1, 2], Sampling())
    second = await engine.complete((1, 2, 5, 6, 3), Sampling(stop_ids=(8,)))
    assert (first.token_ids, first.finish_reason, first.version) == ((5, 6), FinishReason.STOP, 4)
    assert (second.token_ids, second.finish_reason) == ((7, 8), FinishReason.STOP)
    assert engine.calls == [(1, 2), (1, 2, 5, 6, 3)]
    with pytest.raises(EngineError, match="2 completions, this is request 3"):
        await engine.complete([1], Sampling())


async def test_limits_cut_a_completion() -> None:
    engine = ScriptedEngine(lambda prompt: list(prompt) * 3, context_tokens=6)
    cut = await engine.complete([3, 4], Sampling(max_tokens=3))
    assert (cut.token_ids, cut.finish_reason) == ((3, 4, 3), FinishReason.LENGTH)
    cut = await engine.complete([3, 4], Sampling())
    assert (cut.token_ids, cut.finish_reason) == ((3, 4, 3, 4), FinishReason.LENGTH)
    with pytest.raises(ContextExhausted):
        await engine.complete(range(6), Sampling())
    assert len(engine.calls) == 2


@pytest.mark.parametrize("ids", [[], [1, -1], [1, 2.5], ["a"]])
async def test_what_is_no_id_is_refused(ids: list[int]) -> None:
    engine = ScriptedEngine([ids] if ids != [] else [[]])
    with pytest.raises(ValueError, match="token ids"):
        await engine.score(ids)
    with pytest.raises(ValueError, match="token ids"):
        await engine.complete([1], Sampling())


async def test_closing_ends_what_is_under_way() -> None:
    engine = ScriptedEngine([[1], [2]], delay_s=30)
    waiting = asyncio.ensure_future(engine.complete([1], Sampling()))
    await asyncio.sleep(0.01)
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await waiting


def test_no_torch_is_needed() -> None:
    code = "import sys, palmette.engine.scripted; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
