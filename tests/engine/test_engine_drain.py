"""A server that is told to stop finishes what it has begun: real processes, signals and sockets."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from palmette.engine.scripted import ScriptedEngine

pytestmark = pytest.mark.slow
Serve = Callable[..., Awaitable[Any]]
SAID = [40 + k for k in range(30)]
BODY = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 30, "return_token_ids": True}


class Served:
    """`palmette serve` before an engine that takes its time."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url

    async def ask(self, http: aiohttp.ClientSession, **more: Any) -> tuple[int, Any, Any]:
        async with http.post(f"{self.url}/chat/completions", json=BODY | more) as response:
            told = await response.text() if more else await response.json()
            return response.status, told, response.headers

    async def ended(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        said = (await asyncio.wait_for(self.process.stderr.read(), 30)).decode()
        return await self.process.wait(), said


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    fake = await serve("vllm", ScriptedEngine(lambda _: SAID, context_tokens=2048, delay_s=3.0))
    command = [
        "-m",
        "palmette",
        "serve",
        "palmette:base",
        "--port",
        "0",
        "--engine",
        f"vllm:http://127.0.0.1:{fake.port}",
    ]
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, *command, **pipes)
    assert process.stdout is not None
    lines = [(await asyncio.wait_for(process.stdout.readline(), 60)).decode() for _ in range(4)]
    yield Served(process, lines[1].split()[0].removeprefix("OPENAI_BASE_URL="))
    if process.returncode is None:
        process.kill()
    await process.wait()


async def under_way(http: aiohttp.ClientSession, url: str, count: int) -> None:
    while True:
        async with http.get(url.removesuffix("/v1") + "/health") as response:
            if (await response.json())["under_way"] == count:
                return
        await asyncio.sleep(0.02)


async def test_what_is_under_way_is_answered_and_nothing_new(served: Served) -> None:
    async with aiohttp.ClientSession() as http:
        whole = asyncio.ensure_future(served.ask(http))
        streamed = asyncio.ensure_future(served.ask(http, stream=True))
        await asyncio.wait_for(under_way(http, served.url, 2), 10)
        served.process.send_signal(signal.SIGTERM)
        while (refused := await served.ask(http))[0] == 200:  # the signal is on its way
            pass
        assert refused[0] == 503
        assert int(refused[2]["retry-after"]) >= 1
        assert refused[1]["error"]["code"] == "shutting_down"
        async with http.get(served.url.removesuffix("/v1") + "/health") as response:
            assert (response.status, (await response.json())["status"]) == (503, "draining")
        status, answer, _ = await whole
        assert (status, answer["choices"][0]["token_ids"]) == (200, SAID)
        status, text, _ = await streamed
        assert status == 200
        assert text.rstrip().endswith("data: [DONE]")
    code, said = await served.ended()
    assert code == 0
    assert said == "finishing 2 under way, for at most 30 s; Ctrl-C again to stop at once\nstopped\n"
