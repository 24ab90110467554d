"""Proves: in every style the loop does the same work, the model is shown what the style says, and the tree is exact."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.chat.message import ToolCall
from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.engine.witness import Witness
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.gateway.session import Session
from palmette.rollout.exactness import compare
from palmette.sandbox.api import Sandbox, Spec
from palmette.sandbox.fake import FakeHost
from palmette.scaffolds.api import Endpoint, Pause, Scaffold, Stop
from palmette.scaffolds.contexts.names import CONTEXTS
from palmette.scaffolds.contexts.summary import ASK, SO_FAR
from palmette.scaffolds.flows.best import BestOf
from palmette.scaffolds.flows.names import FLOWS
from palmette.scaffolds.flows.plan import FIRST, THEN
from palmette.scaffolds.flows.reflect import WHY
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.names import SCAFFOLDS, open_scaffold
from palmette.scaffolds.protocols.names import PROTOCOLS
from palmette.scaffolds.style import BEST, Style

OpenGateway = Callable[..., Awaitable[Gateway]]
Calls = Sequence[tuple[str, dict[str, str]]]
END = "<|im_end|>"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    host = FakeHost()
    yield await host.start(Spec())
    await host.close()


class Stage:
    """A gateway over a scripted model that speaks a loop's style, and what it was asked."""

    def __init__(self, renderer: Renderer, open_gateway: OpenGateway, sandbox: Sandbox) -> None:
        self.renderer, self.sandbox = renderer, sandbox
        self._open = open_gateway

    def ids(self, loop: ToolLoop, said: str | Calls) -> list[int]:
        """Return what a model samples to say a text, or to make calls under the names that the loop told it."""
        if isinstance(said, str):
            return self.renderer.encode(said + END)
        naming = loop.naming()
        calls = [naming.as_told(ToolCall(id="", name=name, arguments=given)) for name, given in said]
        if loop.style.protocol != "functions":
            return self.renderer.encode(loop._protocol.say("", calls, naming.told)["content"] + END)
        marked = [json.dumps({"name": call.name, "arguments": call.arguments}) for call in calls]
        return self.renderer.encode("\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in marked) + END)

    async def play(self, scaffold: Scaffold, loop: ToolLoop, turns: Sequence[str | Calls]) -> tuple[Stop, Session]:
        """Let a scaffold work with a model that says these turns; its tree must hold what the engine saw, no more."""
        self.engine = Witness(ScriptedEngine([self.ids(loop, turn) for turn in turns]))
        gateway = await self._open(self.engine)
        session = gateway.open_session(Sampling(max_tokens=400))
        self.endpoint = Endpoint(
            base_url=f"http://{gateway.host}:{gateway.port}{session.base_url}", api_key=session.key
        )
        stop = await scaffold.run("make f say two", self.sandbox, self.endpoint)
        await scaffold.aclose()  # type: ignore[attr-defined]
        exact = compare(session.tree, self.engine.calls, session.turns)
        assert exact.exact
        assert exact.unanswered == 0
        assert session.turns == len(self.engine.calls) == len(turns)
        return stop, session

    def prompt(self, number: int) -> str:
        """Return what the engine was asked the number-th time."""
        return self.renderer.decode(self.engine.calls[number][0])


@pytest.fixture
def stage(renderer: Renderer, open_gateway: OpenGateway, sandbox: Sandbox) -> Stage:
    return Stage(renderer, open_gateway, sandbox)


def bash(command: str) -> Calls:
    return [("bash", {"command": command})]


SUBMIT: Calls = [("submit", {})]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("names", [-1, 0, 7])
async def test_the_same_work_in_every_protocol_and_under_any_names(stage: Stage, protocol: str, names: int) -> None:
    loop = ToolLoop(style=Style(protocol=protocol, names=names))
    turns = [
        [*bash("echo one > f; cat f"), *bash("exit 2")],
        [("edit", {"path": "f", "old": "one", "new": "two"})],
        [("edit", {"path": "f"})],
        [*SUBMIT, *bash("rm f")],
    ]
    stop, session = await stage.play(loop, loop, turns)
    assert stop is Stop.SUBMITTED
    assert await stage.sandbox.read("f") == b"two\n"
    [branch] = session.tree.branches()
    assert [branch.token_ids[a:b].tolist() for a, b in branch.turns] == [stage.ids(loop, turn) for turn in turns]
    told = stage.prompt(3)
    [name] = [
        tool.name
        for tool in loop.naming().told
        if loop.naming().own(ToolCall(id="", name=tool.name, arguments={})).name == "edit"
    ]
    assert f"error: {name} needs the argument " in told
    assert "[exit 2]" in told
    assert ("<tool_call>" in told) == (protocol == "functions")


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS.keys() - {"functions"}))
async def test_a_model_that_calls_functions_is_told_how_calls_are_written(stage: Stage, protocol: str) -> None:
    loop, usual = ToolLoop(style=Style(protocol=protocol)), ToolLoop()
    called = stage.renderer.decode(stage.ids(usual, bash("touch g"))).removesuffix(END)
    stop, session = await stage.play(loop, loop, [called, "<tool_call>\n{", SUBMIT])
    assert stop is Stop.SUBMITTED
    assert "g" not in (await stage.sandbox.exec("ls")).stdout.decode().split()
    errors = [
        m["content"] for m in session.conversation if str(m["content"]).startswith("error: malformed tool call: ")
    ]
    assert len(errors) == 2
    assert all("call a tool by" in error for error in errors)


@pytest.mark.parametrize("protocol", ["functions", "xml"])
async def test_a_window_forks_the_tree_where_a_result_is_left_out(stage: Stage, protocol: str) -> None:
    loop = ToolLoop(style=Style(protocol=protocol, context="sliding", size=2))
    turns = [bash(f"echo result{n} of the {n}th command") for n in range(6)]
    _, session = await stage.play(loop, loop, [*turns, SUBMIT])
    seen = [[n for n in range(6) if f"\nresult{n} of" in stage.prompt(number)] for number in range(7)]
    assert seen == [[], [0], [0, 1], [0, 1, 2], [2, 3], [2, 3, 4], [4, 5]]
    assert len(session.tree.branches()) == 3  # the window has moved twice
    before, after = (list(stage.engine.calls[number][0]) for number in (3, 4))
    common = next(at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    said = stage.ids(loop, turns[0])
    assert before[:common] == [
        *stage.engine.calls[0][0],
        *said,
        *before[len(stage.engine.calls[0][0]) + len(said) : common],
    ]
    assert stage.renderer.decode(after[common:]).startswith(
        "[26 characters left out]" if protocol == "functions" else "["
    )
    sampled = sum(len(stage.ids(loop, turn)) for turn in [*turns, SUBMIT])
    assert session.tree.num_sampled == sampled  # what is said again after a fork is given, not sampled


async def test_a_long_result_is_shown_in_full_only_once(stage: Stage) -> None:
    loop = ToolLoop(style=Style(context="truncate", size=20))
    turns = [bash("seq 100 160"), bash("echo short"), bash("echo brief"), SUBMIT]
    _, session = await stage.play(loop, loop, turns)
    assert ["\n130\n" in stage.prompt(number) for number in range(4)] == [False, True, False, False]
    assert "100\n101\n10\n[223 characters cut]\n58\n159\n160" in stage.prompt(3)
    assert len(session.tree.branches()) == 2


async def test_a_full_context_becomes_the_model_s_own_summary(stage: Stage) -> None:
    loop = ToolLoop(style=Style(context="summary", size=700))
    turns = [bash("seq 100 300"), "I counted to 300.", bash("seq 400 600"), "And to 600.", SUBMIT]
    stop, session = await stage.play(loop, loop, turns)
    assert stop is Stop.SUBMITTED
    assert ASK in stage.prompt(1)
    assert "\n250\n" in stage.prompt(1)
    assert f"make f say two\n\n{SO_FAR}\nI counted to 300.{END}" in stage.prompt(2)
    assert "\n250\n" not in stage.prompt(2)
    assert stage.prompt(4).count(SO_FAR) == 1
    assert "And to 600." in stage.prompt(4)
    assert "I counted" not in stage.prompt(4)
    assert len(session.tree.branches()) == 3
    assert session.tree.num_sampled == sum(len(stage.ids(loop, turn)) for turn in turns)


@pytest.mark.parametrize("context", CONTEXTS)
async def test_a_paused_loop_goes_on_as_if_it_had_not(stage: Stage, context: str) -> None:
    loop = ToolLoop(style=Style(context=context, size=100 if context == "summary" else 1))
    turns: list[str | Calls] = [bash(f"seq {n}00 {n}40") for n in range(1, 4)]
    if context == "summary":
        turns = [turns[0], "S1", turns[1], "S2", turns[2], "S3"]
    turns.append(SUBMIT)
    await stage.play(loop, loop, turns)
    whole = list(stage.engine.calls)

    class Halting(ToolLoop):
        async def go_on(self, pause, sandbox, endpoint, *, until=None, offer=None):  # type: ignore[override]
            for turn in (1, 2):
                halted = await loop.go_on(pause, sandbox, endpoint, until=turn)
                assert isinstance(halted, Pause)
                assert halted.turns == turn
                pause = halted
            return await loop.go_on(pause, sandbox, endpoint)

    await stage.play(Halting(style=loop.style), loop, turns)
    await loop.aclose()
    assert stage.engine.calls == whole


async def test_a_plan_comes_first(stage: Stage) -> None:
    loop = ToolLoop(style=Style.read("plan"))
    stop, session = await stage.play(loop, loop, ["1. write it", bash("echo two > f"), SUBMIT])
    assert stop is Stop.SUBMITTED
    assert f"make f say two\n\n{FIRST}{END}" in stage.prompt(0)
    assert THEN in stage.prompt(1)
    assert len(session.tree.branches()) == 1
    assert (await stage.play(loop, loop, ["1. write it", "I will not"]))[0] is Stop.GAVE_UP


@pytest.mark.parametrize("protocol", ["functions", "json"])
async def test_a_failure_is_reflected_on(stage: Stage, protocol: str) -> None:
    loop = ToolLoop(style=Style(protocol=protocol, flow="reflect"))
    turns = [bash("true"), bash("cat nowhere"), "There is no such file.", bash("ls"), SUBMIT]
    stop, session = await stage.play(loop, loop, turns)
    assert stop is Stop.SUBMITTED
    assert [WHY in stage.prompt(number) for number in range(5)] == [False, False, True, True, True]
    assert [m["content"] for m in session.conversation if m["role"] == "user"][-1].startswith(
        "Go on." if protocol == "functions" else "{"
    )
    assert len(session.tree.branches()) == 1
    assert (await stage.play(loop, loop, [bash("true"), "No."]))[0] is Stop.GAVE_UP


async def test_the_best_of_several_attempts_is_kept(stage: Stage) -> None:
    loop = ToolLoop(style=Style(protocol="code"))
    best = BestOf(loop, 3)
    await stage.sandbox.write("given", b"as it was\n", 0o755)
    attempts = [
        [bash("echo one > f; rm given"), SUBMIT],
        [bash("cat given > f; mkdir -p d && touch d/e && chmod 500 d"), SUBMIT],
        ["I give up"],
    ]
    turns = [turn for attempt in attempts for turn in attempt]
    stop, session = await stage.play(best, loop, [*turns, "The second: 2."])
    assert stop is Stop.SUBMITTED
    asked = stage.prompt(5)
    assert "Attempt 1:\nremoved given\nmade f:\none" in asked
    assert "Attempt 2:\nmade d/e:\n\nmade f:\nas it was" in asked
    assert "Attempt 3" not in asked  # it was not submitted
    assert (await stage.sandbox.read("f")) == b"as it was\n"
    listed = await stage.sandbox.exec("find . | sort; stat -c %a given d")
    assert listed.stdout.decode().split() == [".", "./d", "./d/e", "./f", "./given", "755", "500"]
    assert len(session.tree.branches()) == 4
    assert (await stage.play(best, loop, ["no", "no", "no"]))[0] is Stop.GAVE_UP


STYLES = st.builds(
    Style,
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    context=st.just("full"),
    flow=st.sampled_from([*FLOWS, BEST]),
    names=st.integers(-1, 99),
    turns=st.integers(1, 200),
) | st.builds(Style, context=st.sampled_from(sorted(CONTEXTS.keys() - {"full"})), size=st.integers(0, 9999))


@given(STYLES)
def test_a_style_has_a_short_form_and_a_table(style: Style) -> None:
    assert Style.read(style.short) == style
    assert Style.of(style.table()) == style
    name = f"loop:{style.short}" if style.short else "loop"
    assert name in SCAFFOLDS
    opened = open_scaffold(name)
    assert opened.name == name
    if isinstance(opened, ToolLoop):
        assert opened.max_turns == style.turns


@pytest.mark.parametrize(
    ("short", "why"),
    [
        ("xlm", "did you mean 'xml'"),
        ("xml,code", "two of a kind"),
        ("sliding=x", "a number is expected"),
        ("xml=3", "take a number"),
        ("best=0", "too small"),
        ("turns=0", "too small"),
        ("turns", "how many"),
    ],
)
def test_a_style_that_is_wrong_is_one_line(short: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        open_scaffold(f"loop:{short}")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"protocl": "xml"}, "did you mean 'protocol'"),
        ({"size": "4"}, "must be a number"),
        ({"context": "x"}, "known are"),
    ],
)
def test_a_table_that_is_wrong_is_one_line(table: dict[str, object], why: str) -> None:
    with pytest.raises(UserError, match=why):
        Style.of(table)
