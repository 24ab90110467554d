"""``palmette serve``: every dialect of the gateway, answered by a model in this process or by an engine elsewhere."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from palmette.chat.template import Renderer
from palmette.commands.engine import engine_of
from palmette.commands.interrupt import run_interruptibly
from palmette.commands.locate import find_model
from palmette.gateway.app import Gateway
from palmette.gateway.garbage import look_once

DRAIN_S = 30.0  # that the first Ctrl-C, or SIGTERM, waits for answers under way; a second one does not


def serve(
    model: str,
    *,
    host: str,
    port: int,
    key: str,
    runs: Path,
    engine: str = "",
    drain_s: float = DRAIN_S,
    **wide: Any,
) -> None:
    """Serve a model until Ctrl-C or SIGTERM, then for at most `drain_s` finish what is under way.

    New requests are answered 503 meanwhile. With an `engine` of another address, `model` gives tokenizer and chat
    template only; `wide` are `processes` and `max_delay_s` of the gateway. Raises `UserError` for a model that is not
    there and a port that is taken.
    """
    model_dir = find_model(model, runs)
    try:
        serving = _serve(model_dir, host=host, port=port, key=key, address=engine, drain_s=drain_s, **wide)
        run_interruptibly(serving, notice="")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


async def _serve(model_dir: Path, *, host: str, port: int, key: str, address: str, drain_s: float, **wide: Any) -> None:
    renderer = Renderer.from_dir(model_dir)
    async with AsyncExitStack() as stack:
        engine = await engine_of(model_dir, renderer, address)
        stack.push_async_callback(engine.close)
        gateway = Gateway(engine, renderer, host=host, port=port, public_key=key, **wide)
        await gateway.start()
        stack.callback(look_once())
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(_drain, gateway, drain_s)
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


async def _drain(gateway: Gateway, within_s: float) -> None:
    """Answer what is under way and say so, and say what was not answered."""
    if gateway.under_way:
        left = f"finishing {gateway.under_way} under way, for at most {within_s:g} s; Ctrl-C again to stop at once"
        print(left, file=sys.stderr, flush=True)
    if not await gateway.drain(within_s):
        print(f"{gateway.under_way} had no answer in time", file=sys.stderr)
