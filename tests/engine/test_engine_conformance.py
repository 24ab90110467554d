"""Every engine keeps the protocol's promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from palmette.engine.api import Engine
from palmette.engine.conformance import CHECKS, Subject
from palmette.engine.local import LocalEngine
from palmette.engine.scripted import ScriptedEngine


def _local(checkpoints: dict[str, Path], kind: str, **options: int) -> Subject:
    def model(name: str):
        return AutoModelForCausalLM.from_pretrained(checkpoints[name])

    return Subject(
        make=lambda: LocalEngine(model(kind), stop_ids=(), threads=1, **options),
        vocab=131,
        weights=lambda: model(f"{kind}-other").state_dict(),
    )


def _answer(prompt: Sequence[int]) -> list[int]:
    return [(sum(prompt) + 17 * t * t + t) % 130 for t in range(64)]


SUBJECTS: dict[str, Callable[[dict[str, Path]], Subject]] = {
    "qwen3_moe": lambda paths: _local(paths, "qwen3_moe"),
    "qwen3": lambda paths: _local(paths, "qwen3"),
    "llama": lambda paths: _local(paths, "llama"),
    "three rows, no prefix cache": lambda paths: _local(paths, "qwen3", max_batch=3, prefix_cache_tokens=0),
    "one row, tiny prefix cache": lambda paths: _local(paths, "llama", max_batch=1, prefix_cache_tokens=48),
    "scripted": lambda _: Subject(
        make=lambda: ScriptedEngine(_answer, context_tokens=128, delay_s=0.01), vocab=131, weights=dict, samples=False
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("subject", SUBJECTS)
async def test_engine_promises(
    subject: str, check: Callable[[Subject], Awaitable[None]], checkpoints: dict[str, Path]
) -> None:
    await check(SUBJECTS[subject](checkpoints))


@pytest.mark.parametrize("subject", ["qwen3", "scripted"])
async def test_engines_are_engines(subject: str, checkpoints: dict[str, Path]) -> None:
    engine = SUBJECTS[subject](checkpoints).make()
    assert isinstance(engine, Engine)
    await engine.close()
