"""A real tokenizer and template, gateways over scripted engines, and the words of a scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Engine
from palmette.gateway.app import Gateway
from palmette.train.base.tokenizer import train_tokenizer

TEXTS = ["You are an agent in a Linux shell. Solve the task with the tools, then submit.", 'bash {"command": "ls -la"}']


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, vocab_size=300, context_tokens=4096).save_pretrained(str(directory))
    return Renderer.from_dir(directory)


@pytest.fixture(scope="session")
def say(renderer: Renderer) -> Callable[..., list[int]]:
    """Ids of an assistant turn with calls (name, arguments), spaced as no template would space them."""

    def ids(text: str = "", *calls: tuple[str, dict[str, Any]]) -> list[int]:
        marked = [f"<tool_call>\n {json.dumps({'name': n, 'arguments': a})}\n</tool_call>" for n, a in calls]
        return renderer.encode("\n".join(part for part in (text, *marked) if part) + "<|im_end|>")

    return ids


@pytest.fixture
async def open_gateway(renderer: Renderer) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    opened: list[Gateway] = []

    async def start(engine: Engine, **options: Any) -> Gateway:
        gateway = Gateway(engine, renderer, **options)
        opened.append(gateway)
        await gateway.start()
        return gateway

    yield start
    for gateway in opened:
        await gateway.close()
