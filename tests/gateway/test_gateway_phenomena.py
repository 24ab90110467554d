"""Request sequences of the shapes that real agents send: the tree holds what the engine saw, and forks only there.

Each test is one row of the table in docs/agents.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import pytest

from palmette.engine.api import Completion, EngineError, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session

Json = dict[str, Any]
LS = ("bash", {"command": "ls"})


def tool(name: str) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": {"command": {}}}}}


class Bench:
    """A session under test: sends requests, and compares its tree with everything the engine was given and said."""

    def __init__(self, http: aiohttp.ClientSession, gateway: Gateway, say: Callable[..., list[int]]) -> None:
        self.http = http
        self.gateway = gateway
        self.engine: Recording = gateway.engine  # type: ignore[assignment]
        self.session: Session = gateway.open_session(Sampling(max_tokens=2000))
        self.root = f"http://127.0.0.1:{gateway.port}{self.session.base_url.removesuffix('/v1')}"
        self.say = say

    async def post(self, path: str, body: Json, status: int = 200) -> Json:
        async with self.http.post(self.root + path, json=body) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer

    async def chat(
        self, messages: Sequence[Json], said: Sequence[int], tools: Sequence[Json] = (tool("bash"),)
    ) -> Json:
        """Ask by Chat Completions; the engine answers `said`. Return the assistant's message."""
        self.engine.script.append(list(said))
        answer = await self.post("/v1/chat/completions", {"messages": messages, "tools": tools})
        return answer["choices"][0]["message"]

    def check(self, branches: int) -> None:
        """Every prompt and answer is, token for token, a path of the tree, its answer a turn there; nothing else is."""
        found = {tuple(b.token_ids.tolist()): b for b in self.session.tree.branches()}
        calls = [(prompt, tuple(said)) for prompt, said in self.engine.answered]
        for prompt, said in calls:
            whole = (*prompt, *said)
            inside = [branch for path, branch in found.items() if path[: len(whole)] == whole]
            span = (len(prompt), len(whole))
            assert any(span in branch.turns and branch.sampled[slice(*span)].all() for branch in inside)
        assert set(found) <= {(*prompt, *said) for prompt, said in calls}
        assert self.session.sampled_tokens == sum(len(said) for _, said in calls), "each turn is trained once"
        assert self.session.turns == len(calls)
        assert len(self.session.tree.branches()) == branches

    def sampled_text(self, branch: Any) -> list[str]:
        return [self.gateway.renderer.decode(branch.token_ids[a:b].tolist()) for a, b in branch.turns]


class Recording(ScriptedEngine):
    """Answers with what the test queued and remembers it."""

    def __init__(self) -> None:
        self.script: list[list[int]] = []
        self.answered: list[tuple[tuple[int, ...], list[int]]] = []
        self.fails = 0
        super().__init__(lambda prompt: self.script.pop(0))

    async def complete(self, prompt_ids: Any, sampling: Sampling) -> Completion:
        if self.fails:
            self.fails -= 1
            raise EngineError("it broke")
        completion = await super().complete(prompt_ids, sampling)
        self.answered.append((tuple(prompt_ids), list(completion.token_ids)))
        return completion


@pytest.fixture
async def bench(open_gateway: Callable[..., Any], http: aiohttp.ClientSession, say: Callable[..., list[int]]) -> Bench:
    return Bench(http, await open_gateway(Recording()), say)


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def system(text: str) -> Json:
    return {"role": "system", "content": text}


def results(message: Json, *texts: str) -> list[Json]:
    pairs = zip(message["tool_calls"], texts, strict=True)
    return [{"role": "tool", "tool_call_id": call["id"], "content": text} for call, text in pairs]


async def test_claude_code_inserts_defaults_and_moves_cache_marks(bench: Bench) -> None:
    """main 1,3,5: the `Edit` turn comes back with a default in front, marks are on other blocks every time: a chain."""
    edit = {"file_path": "a", "old_string": "x", "new_string": "y"}
    turns = [bench.say("", LS, ("Read", {"file_path": "a"})), bench.say("now", ("Edit", edit)), bench.say("done")]
    messages: list[Json] = [user("fix it")]
    for index, said in enumerate(turns):
        bench.engine.script.append(said)
        marked: list[Json] = json.loads(json.dumps(messages))
        content = marked[-1]["content"]
        blocks: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        blocks[-1]["cache_control"] = {"type": "ephemeral"}
        marked[-1]["content"] = blocks
        answer = await bench.post("/v1/messages?beta=true", {"messages": marked, "system": "s", "stream": False})
        echo = answer["content"]
        for block in echo:
            if block.get("name") == "Edit":
                block["input"] = {"replace_all": False, **block["input"]}
        told = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": f"r{index}"}
            for block in echo
            if block["type"] == "tool_use"
        ]
        messages += [{"role": "assistant", "content": echo}, {"role": "user", "content": told}]
    bench.check(branches=1)


async def test_opencode_reserialises_and_asks_for_a_title_at_once(bench: Bench) -> None:
    """side 3 (0t), main 2,4: a concurrent title comes first, arguments gain spaces: a title root and a chain."""
    decode = bench.gateway.renderer.decode
    bench.engine._script = lambda prompt: bench.say("A title") if "titles" in decode(prompt) else bench.say("", LS)
    main = [system("agent"), user("fix it")]
    _, answer = await asyncio.gather(
        bench.post("/v1/chat/completions", {"messages": [system("titles"), user("t"), user("fix it")]}),
        bench.post("/v1/chat/completions", {"messages": main, "tools": [tool("bash")]}),
    )
    message = answer["choices"][0]["message"]
    message["tool_calls"][0]["function"]["arguments"] = '{ "command" : "ls" }'
    again = {"messages": [*main, message, *results(message, "a")], "tools": [tool("bash")]}
    await bench.post("/v1/chat/completions", again)
    bench.check(branches=2)


async def test_openclaw_rewrites_ids_and_replaces_a_message_at_the_tail(bench: Bench) -> None:
    """main 3,5,7: each shares all but the last message of its predecessor: a trunk, and one leaf a request."""
    trunk, turns = [system("agent"), user("fix it")], [bench.say("", LS), bench.say("", ("bash", {"command": "id"}))]
    for index, said in enumerate([*turns, bench.say("done")]):
        message = await bench.chat([*trunk, user(f"context {index}")], said)
        for call in message.get("tool_calls", ()):
            call["id"] = f"tool{index}x"
        trunk += [message, *(results(message, f"r{index}") if message.get("tool_calls") else ())]
    bench.check(branches=3)
    assert all(len(branch.turns) == 1 for branch in bench.session.tree.branches()), "no sequence holds the run"


async def test_call_ids_rewritten_alone_keep_the_chain(bench: Bench) -> None:
    messages = [user("fix it")]
    for index in range(3):
        message = await bench.chat(messages, bench.say("", LS, ("bash", {"command": f"cat {index}"})))
        for position, call in enumerate(message["tool_calls"]):
            call["id"] = f"functions.bash:{2 * index + position}"
        messages += [message, *results(message, "a", "b")]
    bench.check(branches=1)


async def test_file_states_are_moved_behind_the_dialogue(bench: Bench) -> None:
    messages = [system("agent"), user("state: a=1"), user("fix it")]
    message = await bench.chat(messages, bench.say("", LS))
    messages += [message, *results(message, "ok")]
    message = await bench.chat(messages, bench.say("", LS))
    messages += [message, *results(message, "ok")]
    moved = [messages[0], *messages[2:], user("state: a=2")]
    await bench.chat(moved, bench.say("done"))
    bench.check(branches=2)
    texts = sorted(map(bench.sampled_text, bench.session.tree.branches()), key=len)
    assert texts[0] == ["done<|im_end|>"], "turns that this context did not sample are given there"


async def test_mini_swe_agent_drops_a_failed_turn(bench: Bench) -> None:
    """main 2,4,5: the turn is gone and only the error text stays: an orphan leaf, and the chain goes on before it."""
    messages = [system("agent"), user("fix it")]
    message = await bench.chat(messages, bench.say("", LS))
    messages += [message | {"provider_specific_fields": {"x": 1}}, *results(message, "a")]
    await bench.chat(messages, bench.say("no call"))
    await bench.chat([*messages, user("no tool calls found")], bench.say("", LS))
    bench.check(branches=2)
    assert [len(branch.turns) for branch in bench.session.tree.branches()] == [2, 2]


async def test_swe_agent_asks_again_with_the_bad_turn_and_drops_both(bench: Bench) -> None:
    """main 2,4,4: the second answer was sampled behind the bad turn, and is shown without it from then on."""
    messages = [system("agent"), user("fix it")]
    bad = await bench.chat(messages, bench.say("oops"))
    good = await bench.chat([*messages, bad, user("wrong format")], bench.say("", LS))
    await bench.chat([*messages, good, *results(good, "a")], bench.say("done"))
    bench.check(branches=2)
    assert sorted(map(bench.sampled_text, bench.session.tree.branches()), key=len)[0] == ["done<|im_end|>"]


async def test_claude_code_compacts(bench: Bench) -> None:
    """main 1,3; compact 3 (its last message gains an instruction); main 3: a branch, a new root with an old turn."""
    messages = [system("agent"), user("fix it")]
    message = await bench.chat(messages, bench.say("I look", LS))
    first = [*messages, message, *results(message, "long output")]
    kept = await bench.chat(first, bench.say("I edit", ("bash", {"command": "ed"})))
    whole = [*first, kept, *results(kept, "edited")]
    summarise = [*whole[:-1], whole[-1] | {"content": "edited\n\nNow summarise."}]
    summary = await bench.chat(summarise, bench.say("We looked."), tools=[])
    fresh = [system("agent"), user(f"So far: {summary['content']}"), kept, *results(kept, "edited (short)")]
    await bench.chat(fresh, bench.say("done"))
    bench.check(branches=3)
    assert sorted(bench.sampled_text(branch)[-1][:6] for branch in bench.session.tree.branches()) == [
        "I edit",
        "We loo",
        "done<|",
    ]
    fresh_branch = next(b for b in bench.session.tree.branches() if bench.sampled_text(b)[-1].startswith("done"))
    assert "I edit" in bench.gateway.renderer.decode(fresh_branch.token_ids.tolist())
    assert len(fresh_branch.turns) == 1, "the turn that survived the compaction is given here"


async def test_opencode_compaction_shares_only_the_system_message(bench: Bench) -> None:
    """main 2,4; compact 2 (0t); main 4 with an assistant message that the compaction wrote in another context."""
    main = [system("agent"), user("fix it")]
    message = await bench.chat(main, bench.say("", LS))
    await bench.chat([*main, message, *results(message, "a")], bench.say("", LS))
    summary = await bench.chat([system("summarise"), user("all of it")], bench.say("Short."), tools=[])
    await bench.chat([system("agent"), user("what happened?"), summary, user("go on")], bench.say("done"))
    bench.check(branches=3)


async def test_codex_runs_sub_agents_at_once(bench: Bench) -> None:
    """main 4,7; subs interleaved; main 10: a root each, and each a chain, in the Responses dialect."""
    say = bench.say
    by_mark = {"alpha": [say("", LS), say("a done")], "beta": [say("", LS), say("b done")], "gamma": [say("", LS)]}
    decode = bench.gateway.renderer.decode

    def script(prompt: Sequence[int]) -> list[int]:
        return by_mark[next(mark for mark in by_mark if mark in decode(prompt))].pop(0)

    bench.engine._script = script

    async def agent(mark: str, requests: int) -> None:
        items: list[Json] = [{"role": "developer", "content": f"you are {mark}"}, {"role": "user", "content": "go"}]
        tools = [{"type": "function", "name": name, "parameters": {}} for name in ("bash", mark)]
        for _ in range(requests):
            answer = await bench.post("/v1/responses", {"input": items, "tools": tools, "store": False})
            items += answer["output"]
            items += [
                {"type": "function_call_output", "call_id": item["call_id"], "output": mark}
                for item in answer["output"]
                if item["type"] == "function_call"
            ]
            await asyncio.sleep(0)

    await asyncio.gather(agent("alpha", 2), agent("beta", 2), agent("gamma", 1))
    bench.check(branches=3)


async def test_codex_gains_a_tool_in_mid_run(bench: Bench) -> None:
    """main 4 (12t); main 7 (13t): the same messages but another prompt: a new root, its old turn given."""
    messages = [system("agent"), user("fix it")]
    message = await bench.chat(messages, bench.say("", LS))
    messages += [message, *results(message, "a")]
    message = await bench.chat(messages, bench.say("", LS), tools=[tool("bash"), tool("mcp")])
    messages += [message, *results(message, "b")]
    await bench.chat(messages, bench.say("done"), tools=[tool("bash"), tool("mcp")])
    bench.check(branches=2)


async def test_gemini_cli_marks_calls_and_drops_the_marks(bench: Bench) -> None:
    """A `thoughtSignature` on the calls of the running turn, gone later; no ids: still a chain."""
    turns = [bench.say("", LS, ("bash", {"command": "id"})), bench.say("", LS), bench.say("done")]
    contents: list[Json] = [{"role": "user", "parts": [{"text": "fix it"}]}]
    for index, said in enumerate(turns):
        bench.engine.script.append(said)
        answer = await bench.post("/v1beta/models/gemini-2.5-pro:generateContent", {"contents": contents})
        for content in contents:
            [part.pop("thoughtSignature", None) for part in content["parts"]]
        parts = answer["candidates"][0]["content"]["parts"]
        for part in parts:
            part.get("functionCall", {}).pop("id", None)
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        told = [
            {"functionResponse": {"name": c["name"], "response": {"output": f"r{index}{n}"}}}
            for n, c in enumerate(calls)
        ]
        marked = [part | {"thoughtSignature": "skip"} for part in parts]
        contents += [{"role": "model", "parts": marked}, {"role": "user", "parts": told}]
    bench.check(branches=1)


async def test_calls_flattened_into_text_make_every_request_a_sample(bench: Bench) -> None:
    messages = [user("fix it")]
    for index in range(3):
        message = await bench.chat(messages, bench.say("I call", LS))
        call = message["tool_calls"][0]["function"]
        messages += [{"role": "assistant", "content": f"I call\n{call['name']}{call['arguments']}"}, user(f"r{index}")]
    bench.check(branches=3)


async def test_a_turn_split_around_an_inserted_message(bench: Bench) -> None:
    message = await bench.chat([user("fix it")], bench.say("I call", LS))
    split = [{"role": "assistant", "content": "I call"}, user("reminder"), message | {"content": None}]
    await bench.chat([user("fix it"), *split, *results(message, "a")], bench.say("done"))
    bench.check(branches=2)
    shared = next(b for b in bench.session.tree.branches() if bench.sampled_text(b)[-1].startswith("done"))
    kept = bench.sampled_text(shared)[0]
    assert len(shared.turns) == 2
    assert kept, "what is left of the sampled turn is shared, as far as its tokens are those of the new prompt"
    assert "I call".startswith(kept)


async def test_parallel_calls_in_another_order_fork(bench: Bench) -> None:
    message = await bench.chat([user("fix it")], bench.say("", LS, ("bash", {"command": "id"})))
    message["tool_calls"].reverse()
    await bench.chat([user("fix it"), message, *results(message, "a", "b")], bench.say("done"))
    bench.check(branches=2)


async def test_assistant_messages_that_nobody_sampled_are_given(bench: Bench) -> None:
    """tau2's greeting, few-shot turns, canned acknowledgements."""
    shots = [
        user("2+2?"),
        {"role": "assistant", "content": "4"},
        {"role": "assistant", "content": "Hi! How can I help?"},
    ]
    messages = [system("agent"), *shots, user("fix it")]
    message = await bench.chat(messages, bench.say("", LS))
    await bench.chat([*messages, message, *results(message, "a")], bench.say("done"))
    bench.check(branches=1)
    [branch] = bench.session.tree.branches()
    given = bench.gateway.renderer.decode(branch.token_ids[~branch.sampled].tolist())
    assert "How can I help?" in given


async def test_tau2_has_two_mirrored_roots(bench: Bench) -> None:
    hello = {"role": "assistant", "content": "Hi!"}
    wish = await bench.chat([system("customer"), user("Hi!")], bench.say("I want a refund"), tools=[])
    ours = [system("agent"), hello, user(wish["content"])]
    reply = await bench.chat(ours, bench.say("Which order?"))
    await bench.chat([system("customer"), user("Hi!"), wish, user(reply["content"])], bench.say("###STOP###"), tools=[])
    bench.check(branches=2)


@pytest.mark.parametrize("kept", [True, False], ids=["echoed", "dropped"])
async def test_reasoning_that_agents_keep_or_drop_stays(bench: Bench, kept: bool) -> None:
    messages = [user("fix it")]
    for _ in range(3):
        message = await bench.chat(messages, bench.say("<think>\nhm\n</think>\n\nI call", LS))
        assert message["reasoning_content"] == "hm"
        if not kept:
            del message["reasoning_content"]
        messages += [message, *results(message, "a")]
    bench.check(branches=1)


async def test_an_identical_retry_after_an_engines_failure(bench: Bench) -> None:
    bench.engine.fails = 1
    await bench.post("/v1/chat/completions", {"messages": [user("x")]}, status=503)
    bench.engine.script.append(bench.say("ok"))
    await bench.post("/v1/chat/completions", {"messages": [user("x")]})
    bench.check(branches=1)
    assert bench.session.failure is None


async def test_terminus_summarises_and_starts_again(bench: Bench) -> None:
    """main 1,3; 5 (extends main); 1 (new root); 7 (extends the 5); main 4 (shares message 0)."""
    main = [user("task")]
    for index in range(2):
        main += [await bench.chat(main, bench.say(f"step {index}"), tools=[]), user(f"output {index}")]
    summary = await bench.chat([*main, user("summarise")], bench.say("summary"), tools=[])
    questions = await bench.chat([user("read: summary")], bench.say("why?"), tools=[])
    asked = [*main, user("summarise"), summary, user(questions["content"])]
    answers = await bench.chat(asked, bench.say("because"), tools=[])
    await bench.chat([main[0], questions, user(answers["content"]), user("go on")], bench.say("done"), tools=[])
    bench.check(branches=3)


async def test_a_clock_in_the_prompt_is_a_root_a_minute(bench: Bench) -> None:
    for minute in range(2):
        message = await bench.chat([system(f"it is 10:0{minute}"), user("fix it")], bench.say("", LS))
        told = results(message, "a")
        await bench.chat([system(f"it is 10:0{minute}"), user("fix it"), message, *told], bench.say("done"))
    bench.check(branches=2)
