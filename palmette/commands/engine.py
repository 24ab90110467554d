"""Engines on the command line: ours or somebody's server, and ``palmette engine check``, which measures one."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from palmette.chat.template import Renderer
from palmette.engine.api import Engine
from palmette.engine.probe import Finding, Verdict, probe
from palmette.engine.remote import open_engine

KEY_VARIABLE = (
    "PALMETTE_ENGINE_KEY"  # in the environment and not among the arguments, which everybody on a machine sees
)
_STYLES = {Verdict.OK: "green", Verdict.WEAK: "yellow", Verdict.WRONG: "red"}


async def engine_of(model_dir: Path, renderer: Renderer, address: str = "", *, max_batch: int = 64) -> Engine:
    """Return the engine at `address` (``vllm:URL``, ``sglang:URL``, ``URL``), or the model in this process for none.

    Raises `UserError` when nobody is there.
    """
    if address:
        return await open_engine(address, key=os.environ.get(KEY_VARIABLE, ""), stop_ids=renderer.stop_ids)
    from palmette.engine.local import LocalEngine
    from palmette.model.load import load_model

    return LocalEngine(load_model(model_dir), stop_ids=renderer.stop_ids, max_batch=max_batch)


def check(url: str, *, kind: str, vocab: int, as_json: bool) -> int:
    """Measure the engine at `url` and print what was found; returns 1 if something is wrong.

    Raises `UserError` when nobody is there.
    """
    return asyncio.run(_check(url, kind=kind, vocab=vocab, as_json=as_json))


async def _check(url: str, *, kind: str, vocab: int, as_json: bool) -> int:
    engine = await open_engine(f"{kind}:{url}", key=os.environ.get(KEY_VARIABLE, ""))
    found: list[Finding] = []
    try:
        if not as_json:
            Console().print(
                escape(f"{engine.kind} at {url}: {engine.model}, {engine.context_tokens} tokens of context")
            )
        async for finding in probe(engine, vocab=vocab):
            found.append(finding)
            if not as_json:
                _print(finding)
    finally:
        await engine.close()
    if as_json:
        head = {"url": url, "kind": engine.kind, "model": engine.model, "context_tokens": engine.context_tokens}
        print(json.dumps(head | {"findings": [asdict(one) for one in found]}, indent=1))
    return 1 if any(one.verdict is Verdict.WRONG for one in found) else 0


def _print(finding: Finding) -> None:
    style = _STYLES[finding.verdict]
    Console(soft_wrap=True).print(f"[{style}]{finding.verdict:<5}[/] {finding.name:<17} {escape(finding.detail)}")
