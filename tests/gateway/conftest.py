"""A small real tokenizer and template, and gateways over scripted engines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Engine
from palmette.gateway.app import Gateway
from palmette.train.base.tokenizer import train_tokenizer

TEXTS = ["You are an agent in a Linux shell. Solve the task with the tools, then submit.", 'bash {"command": "ls -la"}']

Say = Callable[..., list[int]]
OpenGateway = Callable[..., Any]


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, vocab_size=300, context_tokens=4096).save_pretrained(str(directory))
    return Renderer.from_dir(directory)


@pytest.fixture(scope="session")
def say(renderer: Renderer) -> Say:
    """Ids of an assistant turn, one character at a time: a tokenisation that no encoder would choose."""

    def ids(text: str = "", *calls: tuple[str, dict[str, Any]], end: bool = True) -> list[int]:
        marked = [f"<tool_call>\n{json.dumps({'name': n, 'arguments': a})}\n</tool_call>" for n, a in calls]
        body = "\n".join(part for part in (text, *marked) if part)
        pieces: list[int] = []
        while body:
            mark = next((mark for mark in ("<tool_call>", "</tool_call>") if body.startswith(mark)), body[0])
            pieces += renderer.encode(mark)
            body = body[len(mark) :]
        return pieces + (renderer.encode("<|im_end|>") if end else [])

    return ids


@pytest.fixture
async def open_gateway(renderer: Renderer) -> AsyncIterator[OpenGateway]:
    opened: list[Gateway] = []

    async def start(engine: Engine, **options: Any) -> Gateway:
        gateway = Gateway(engine, renderer, **options)
        opened.append(gateway)
        await gateway.start()
        return gateway

    yield start
    for gateway in opened:
        await gateway.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
