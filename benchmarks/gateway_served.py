"""This project's gateway before the fake engine of `benchmarks/gateway.py`, in a process of its own.

Prints one JSON line {port, keys}: a session a key. Upon end of input it closes the sessions, writes their trees with
``--trees`` and prints another line {peak_lag_ms, sampled_tokens, turns}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop

from palmette.chat.template import Renderer
from palmette.engine.api import Completion, EngineError, FinishReason, Sampling
from palmette.gateway.app import Gateway
from palmette.gateway.garbage import look_once
from palmette.trajectory.store import TreeStore


class RemoteEngine:
    """The token route of `benchmarks/gateway_engine.py` as an engine."""

    version = 0
    context_tokens = 1 << 20

    def __init__(self, url: str) -> None:
        self._url = url
        self._http: aiohttp.ClientSession | None = None

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Send the ids as one array and read ids and log-probs."""
        if self._http is None:
            forever = aiohttp.ClientTimeout(total=None)
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=forever)
        async with self._http.post(self._url, data=np.asarray(prompt_ids, np.int32).tobytes()) as response:
            answer = await response.read()
            if response.status != 200:
                raise EngineError(f"the engine answered {response.status}")
        half = len(answer) // 2
        return Completion(
            token_ids=tuple(np.frombuffer(answer[:half], np.int32).tolist()),
            logprobs=tuple(np.frombuffer(answer[half:], np.float32).tolist()),
            finish_reason=FinishReason.STOP,
            version=self.version,
        )

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Not asked for here."""
        raise EngineError("this engine does not score")

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Not asked for here."""
        raise EngineError("this engine has no weights")

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()


async def watch_lag(peak: list[float]) -> None:
    """Keep in `peak` the longest time in seconds that the loop was late."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.01)
        peak[0] = max(peak[0], time.perf_counter() - began - 0.01)


async def serve(given: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    engine = RemoteEngine(given.upstream + "/generate")
    journal = {"journal": given.journal, "sync": given.sync} if given.journal else {}
    wide = {"processes": given.processes, "max_delay_s": given.max_delay_ms / 1000 or None}
    gateway = Gateway(engine, Renderer.from_dir(given.model), max_under_way=4096, **journal, **wide)
    await gateway.start()
    sessions = [gateway.open_session(Sampling(max_tokens=512)) for _ in range(given.sessions)]
    print(json.dumps({"port": gateway.port, "keys": [session.key for session in sessions]}), flush=True)
    look_once()
    peak = [0.0]
    watching = asyncio.create_task(watch_lag(peak))
    await asyncio.to_thread(sys.stdin.read)
    watching.cancel()
    for session in sessions:
        gateway.close_session(session.key)
    if given.trees:
        TreeStore(given.trees).extend(({}, session.tree) for session in sessions)
    told = {
        "peak_lag_ms": round(1000 * peak[0], 1),
        "sampled_tokens": sum(session.tree.num_sampled for session in sessions),
        "turns": sum(session.turns for session in sessions),
    }
    await gateway.close()
    await engine.close()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--trees", type=Path)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--sync", default="fsync")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--max-delay-ms", type=float, default=0.0)
    uvloop.run(serve(parser.parse_args()))
