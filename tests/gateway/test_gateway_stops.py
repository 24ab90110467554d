"""Stop strings: what is shown ends before them, what was sampled stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.chat.template import Renderer
from palmette.engine.api import Completion, FinishReason, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.stops import sample_until

Open = Callable[..., Any]
Say = Callable[..., list[int]]
USER = {"role": "user", "content": "count"}


class Whole:
    """An engine that does not stream."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self.version, self.context_tokens = engine.version, engine.context_tokens
        self.score, self.load, self.close = engine.score, engine.load, engine.close

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self._engine.complete(prompt_ids, sampling)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("whole", [False, True])
async def test_the_tree_keeps_what_was_sampled_and_goes_on_from_it(
    open_gateway: Open, say: Say, renderer: Renderer, http: aiohttp.ClientSession, stream: bool, whole: bool
) -> None:
    sampled = say("one two END three", ("bash", {"command": "ls"}))
    scripted = ScriptedEngine([sampled, say("next")], version=4)
    gateway = await open_gateway(Whole(scripted) if whole else scripted)
    session = gateway.open_session(Sampling())
    url = f"http://127.0.0.1:{gateway.port}{session.base_url}/chat/completions"
    asked = {"messages": [USER], "stop": ["END", "never"], "stream": stream, "return_token_ids": True}
    async with http.post(url, json=asked) as answer:
        said = (await answer.read()).decode()
    assert "one two" in said
    assert "END" not in said
    assert "three" not in said
    assert '"finish_reason":"stop"' in said
    until = len(say("one two END", end=False))
    [branch] = session.tree.branches()
    assert branch.token_ids[branch.sampled].tolist() == sampled[:until]
    assert set(branch.version[branch.sampled].tolist()) == {4}
    assert session.conversation[-1]["content"] == "one two "
    shown = {"role": "assistant", "content": "one two "}
    async with http.post(url, json={"messages": [USER, shown, {"role": "user", "content": "on"}]}) as answer:
        assert answer.status == 200
    before = [*scripted.calls[0], *sampled[:until]]
    assert list(scripted.calls[1][: len(before)]) == before
    assert renderer.decode(scripted.calls[1][len(before) :]).startswith("<|im_end|>")
    [branch] = session.tree.branches()
    assert branch.token_ids.tolist() == [*scripted.calls[1], *say("next")]


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropic_is_told_which_one(open_gateway: Open, say: Say, streamed: bool) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda _: say("a b c STOP d")), public_key="")
    base = f"http://127.0.0.1:{gateway.port}"
    asked: Any = {"model": "m", "max_tokens": 90, "messages": [USER], "stop_sequences": ["STOP"]}
    async with anthropic.AsyncAnthropic(base_url=base, api_key="x", max_retries=0) as client:
        if streamed:
            async with client.messages.stream(**asked) as stream:
                answer: Any = await stream.get_final_message()
        else:
            answer = await client.messages.create(**asked)
    assert (answer.stop_reason, answer.stop_sequence, answer.content[0].text) == ("stop_sequence", "STOP", "a b c ")
    async with anthropic.AsyncAnthropic(base_url=base, api_key="x", max_retries=0) as client:
        answer = await client.messages.create(**asked | {"stop_sequences": ["no"]})
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)


async def test_google_too(open_gateway: Open, say: Say, http: aiohttp.ClientSession) -> None:
    gateway = await open_gateway(ScriptedEngine(lambda _: say("a b c STOP d")), public_key="")
    body = {"contents": [{"role": "user", "parts": [{"text": "x"}]}], "generationConfig": {"stopSequences": ["STOP"]}}
    async with http.post(f"http://127.0.0.1:{gateway.port}/v1beta/models/m:generateContent", json=body) as answer:
        [candidate] = (await answer.json())["candidates"]
    assert (candidate["content"]["parts"], candidate["finishReason"]) == ([{"text": "a b c "}], "STOP")


PIECES = st.lists(st.sampled_from(["a", "b", "ab", "é", "🌳", " ", "<|im_start|>"]), min_size=1, max_size=8).map(
    "".join
)
STOPS = st.lists(st.sampled_from(["a", "ba", "é", "🌳b", "b b", "xyz"]), min_size=1, max_size=3)


@given(text=PIECES, stops=STOPS)
async def test_the_cut_is_at_the_first_token_whose_text_holds_one(
    text: str, stops: list[str], renderer: Renderer
) -> None:
    ids = [token for char in text for token in renderer.encode(char)]
    told: list[int] = []
    engine = ScriptedEngine(lambda _: ids)
    sampling = Sampling(max_tokens=99)
    done, cut = await sample_until(engine, [1], sampling, stops, renderer, lambda token, _: told.append(token))
    want = next((n for n in range(1, len(ids) + 1) if any(s in renderer.decode(ids[:n]) for s in stops)), None)
    assert list(done.token_ids) == told == ids[:want]
    assert done.finish_reason is FinishReason.STOP
    if want is None:
        assert cut is None
    else:
        assert cut is not None
        assert cut.string in stops
        assert not any(stop in cut.text for stop in stops)
        assert renderer.decode(ids[:want]).startswith(cut.text + cut.string)


@pytest.mark.parametrize("stop", [["", "x"], ["x"] * 17, [1], {"a": 1}, "x" * 300])
async def test_bad_stops_are_named(open_gateway: Open, http: aiohttp.ClientSession, stop: Any) -> None:
    gateway = await open_gateway(ScriptedEngine([]), public_key="")
    url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
    async with http.post(url, json={"messages": [USER], "stop": stop}) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "stop")
