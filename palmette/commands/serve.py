"""``palmette serve``: every dialect of the gateway, answered by a model in this process or by an engine elsewhere."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from palmette.chat.template import Renderer
from palmette.commands.engine import engine_of
from palmette.commands.interrupt import run_interruptibly
from palmette.commands.locate import find_model
from palmette.gateway.app import Gateway

DRAIN_S = 5.0  # that Ctrl-C waits for answers under way; a second one does not


def serve(model: str, *, host: str, port: int, key: str, runs: Path, engine: str = "") -> None:
    """Serve a model until Ctrl-C. Raises `UserError` for a model that is not there and a port that is taken.

    With an `engine` of another address, `model` gives tokenizer and chat template only.
    """
    model_dir = find_model(model, runs)
    try:
        run_interruptibly(_serve(model_dir, host=host, port=port, key=key, address=engine), notice="")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


async def _serve(model_dir: Path, *, host: str, port: int, key: str, address: str) -> None:
    renderer = Renderer.from_dir(model_dir)
    async with AsyncExitStack() as stack:
        engine = await engine_of(model_dir, renderer, address)
        stack.push_async_callback(engine.close)
        gateway = Gateway(engine, renderer, host=host, port=port, public_key=key)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(gateway.drain, DRAIN_S)
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{gateway.port}/v1"
        bearer = f" -H 'Authorization: Bearer {key}'" if key else ""
        print(f"{model_dir} answers the OpenAI protocol; stop it with Ctrl-C")
        print(f"  OPENAI_BASE_URL={url} OPENAI_API_KEY={key or 'any'}")
        print(
            f"  curl {url}/chat/completions -H 'Content-Type: application/json'{bearer} "
            """-d '{"model": "palmette", "messages": [{"role": "user", "content": "Hello"}]}'""",
        )
        print(f"  metrics for Prometheus: {url.removesuffix('/v1')}/metrics", flush=True)
        await asyncio.Event().wait()
