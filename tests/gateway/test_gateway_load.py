"""Under load: sessions take turns, what there is no room for is told so, a stop waits, and all of it is counted."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.pace import Pace
from palmette.gateway.places import Full, Places

USER = {"role": "user", "content": "x"}
Say = Callable[..., list[int]]


def url(gateway: Any, session: Any, path: str = "chat/completions") -> str:
    return f"http://127.0.0.1:{gateway.port}{session.base_url}/{path}"


async def test_a_busy_session_delays_others_by_one_call_not_by_its_queue(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    served: list[str] = []
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("ok"), delay_s=0.02), max_at_engine=1)
    busy, quiet = gateway.open_session(Sampling()), gateway.open_session(Sampling())

    async def ask(session: Any) -> None:
        async with http.post(url(gateway, session), json={"messages": [USER]}) as response:
            assert response.status == 200
        served.append("busy" if session is busy else "quiet")

    crowd = [asyncio.ensure_future(ask(busy)) for _ in range(12)]
    while gateway._places.waiting < 11:
        await asyncio.sleep(0.005)
    await ask(quiet)
    assert served.count("busy") <= 3
    await asyncio.gather(*crowd)
    assert Counter(served) == {"busy": 12, "quiet": 1}


async def test_one_session_cannot_take_all_the_room(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("ok"), delay_s=0.3), max_under_way=64)
    busy, quiet = gateway.open_session(Sampling()), gateway.open_session(Sampling())

    async def ask(session: Any, path: str = "chat/completions") -> tuple[int, Any, Any, Any]:
        body = {"messages": [USER], "max_tokens": 5}
        async with http.post(url(gateway, session, path), json=body) as response:
            told, heads = await response.json(), response.headers
            return response.status, told.get("error"), heads.get("x-palmette-reason"), heads.get("retry-after")

    answers = await asyncio.gather(*(ask(busy) for _ in range(20)), ask(quiet))
    refused = [answer for answer in answers if answer[0] != 200]
    assert answers[-1][0] == 200
    assert len(refused) == 4
    for status, error, reason, retry_s in refused:
        assert (status, reason, error["code"]) == (429, "session_full", "rate_limit_exceeded")
        assert int(retry_s) >= 1
    _, text = await metrics(http, gateway)
    assert 'palmette_rejected_total{reason="session_full"} 4' in text
    assert 'palmette_requests_total{dialect="openai_chat",status="429"} 4' in text


async def metrics(http: aiohttp.ClientSession, gateway: Any) -> tuple[str, str]:
    async with http.get(f"http://127.0.0.1:{gateway.port}/metrics") as response:
        assert response.status == 200
        return response.headers["content-type"], await response.text()


async def test_what_happened_is_counted(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    engine = ScriptedEngine([say("one"), say("two"), say("other")])
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling())
    messages = [USER]
    for _ in range(2):
        async with http.post(url(gateway, session), json={"messages": messages}) as response:
            messages = [*messages, (await response.json())["choices"][0]["message"], USER]
    body = {"messages": [{"role": "user", "content": "y"}], "stream": True}
    async with http.post(url(gateway, session), json=body) as response:
        await response.read()
    async with http.post(url(gateway, session), json={"messages": 1}) as response:
        assert response.status == 400
    kind, text = await metrics(http, gateway)
    assert kind.startswith("text/plain; version=0.0.4")
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .*|palmette_[a-z0-9_]+(\{[^}]*\})? [0-9.e+-]+", line), line
    prompts, sampled = sum(map(len, engine.calls)), sum(len(say(word)) for word in ("one", "two", "other"))
    for line in (
        "palmette_turns_total 3",
        "palmette_forks_total 1",
        f'palmette_tokens_total{{kind="prompt"}} {prompts}',
        f'palmette_tokens_total{{kind="sampled"}} {sampled}',
        'palmette_requests_total{dialect="openai_chat",status="200"} 3',
        'palmette_requests_total{dialect="openai_chat",status="400"} 1',
        "palmette_sessions_open 1",
        "palmette_under_way 0",
        "palmette_answer_seconds_count 3",
    ):
        assert line in text.splitlines()
    assert session.key not in text


async def test_draining_answers_what_is_under_way_and_nothing_more(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda prompt: say("ok"), delay_s=0.2))
    session = gateway.open_session(Sampling())

    async def ask() -> tuple[int, str | None]:
        async with http.post(url(gateway, session), json={"messages": [USER]}) as response:
            return response.status, response.headers.get("x-palmette-reason")

    first = asyncio.ensure_future(ask())
    while not gateway._places.under_way:
        await asyncio.sleep(0.005)
    assert not await gateway.drain(0.0)
    assert await ask() == (503, "draining")
    assert await gateway.drain(10.0)
    assert await first == (200, None)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
async def test_places_are_never_lost_and_go_round(data: st.DataObject) -> None:
    places = Places(at_engine=data.draw(st.integers(1, 3)), under_way=200)
    most = 0

    async def work(session: str) -> None:
        nonlocal most
        with places.admitted(session):
            async with places.place(session):
                most = max(most, places.taken)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    sessions = data.draw(st.lists(st.sampled_from("abc"), max_size=30))
    tasks = [asyncio.ensure_future(work(session)) for session in sessions]
    for _ in range(data.draw(st.integers(0, 6))):
        await asyncio.sleep(0)
        if tasks:
            data.draw(st.sampled_from(tasks)).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= places.at_engine
    assert (places.taken, places.waiting, places.under_way) == (0, 0, 0)
    assert await places.drained(0.1)
    with pytest.raises(Full, match="draining"), places.admitted("a"):
        pass


@given(service_ms=st.floats(0.2, 5.0), offered=st.integers(1, 400))
def test_the_pace_finds_how_many_a_delay_allows(service_ms: float, offered: int) -> None:
    """A loop that is late by the work of all that are admitted: the bound settles where that is a quarter of 40 ms."""
    pace, late_ms = Pace(0.04), []
    for _ in range(400):
        here = 0
        while here < offered and pace.admits(here):
            here += 1
        late_ms.append(here * service_ms)
        pace.adapt(here * service_ms / 1000)
    allowed = 10.0 / service_ms
    settled = late_ms[200:]
    assert max(settled) <= 10.0 + 2 * service_ms
    if offered <= allowed:
        assert min(settled) >= offered * service_ms * 0.999, "nobody is refused who need not be"
    elif allowed >= 4:
        assert sum(settled) / len(settled) >= 0.7 * (10.0 - service_ms), "nor more than must be"


async def test_a_loop_that_is_late_refuses_what_would_wait(
    open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Say
) -> None:
    class Slow(ScriptedEngine):
        async def complete(self, prompt_ids: Any, sampling: Sampling) -> Any:
            time.sleep(0.02)  # noqa: ASYNC251  # the loop is what is to be late
            return await super().complete(prompt_ids, sampling)

    gateway = await open_gateway(Slow(lambda prompt: say("ok")), max_delay_s=0.01)
    sessions = [gateway.open_session(Sampling()) for _ in range(40)]

    async def ask(session: Any) -> tuple[int, str | None, str | None]:
        async with http.post(url(gateway, session), json={"messages": [USER]}) as response:
            return response.status, response.headers.get("x-palmette-reason"), response.headers.get("retry-after")

    for _ in range(6):
        told = await asyncio.gather(*map(ask, sessions))
    assert set(told) == {(200, None, None), (429, "gateway_slow", "1")}
    assert gateway._places.pace.most < 20  # of 40 that ask at once; it goes up and down
