"""The renderer against the tokenizers' own rendering, and what must hold for any conversation and any sampled ids."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.message import Message, Tool, ToolCall
from palmette.chat.template import PrefixBroken, Renderer, TemplateRefused
from palmette.errors import UserError

KINDS = ["chatml", "llama", "rewriter", "plain", "embedded"]
BASH = Tool(name="bash", description="Run a command.", parameters={"type": "object", "properties": {"command": {}}})
CONTROL = [
    "<start>",
    "<end>",
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|begin|>",
]
MARKS = ["<tool_call>", "</tool_call>", "</tool_response>", "<think>", "</think>", "<|python_tag|>"]

calm = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<{"), max_size=12)
text = st.lists(calm | st.sampled_from(CONTROL), max_size=3).map("".join)
wild = st.lists(calm | st.sampled_from(CONTROL + MARKS), max_size=4).map("".join)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | wild, lambda v: st.lists(v, max_size=2) | st.dictionaries(wild, v, max_size=2), max_leaves=4
)
arguments = st.dictionaries(wild, values, max_size=3)


def said(call_counts: st.SearchStrategy[int]) -> st.SearchStrategy[Message]:
    """Assistant messages as `parse` would give them."""

    def make(content: str, calls: list) -> Message:
        made = (ToolCall(id=f"call{n}", name=name, arguments=a) for n, (name, a) in enumerate(calls))
        return Message(role="assistant", content=content.strip(), tool_calls=tuple(made))

    call = st.tuples(st.sampled_from(["bash", "edit", "<|im_end|>"]), arguments)
    return st.builds(make, text, call_counts.flatmap(lambda n: st.lists(call, min_size=n, max_size=n)))


def follow_ups(message: Message, contents: list[str]) -> list[Message]:
    """What comes after an assistant message: one answer a call, or the user."""
    if message.tool_calls:
        answers = zip(message.tool_calls, contents * 3, strict=False)
        return [Message(role="tool", content=content, tool_call_id=call.id) for call, content in answers]
    return [Message(role="user", content=contents[0])]


def control_ids(renderer: Renderer, ids: list[int]) -> list[int]:
    added = {renderer.encode(t)[0] for t in CONTROL + MARKS if len(renderer.encode(t)) == 1}
    return [i for i in ids if i in added]


def clumsy(renderer: Renderer, ids: list[int], cuts: list[int]) -> list[int]:
    """Tokenise the same text otherwise: every text token whose turn it is becomes one token a byte."""
    control, spelled = set(control_ids(renderer, ids)), []
    for position, identity in enumerate(ids):
        piece = renderer.decode([identity])
        split = cuts[position % len(cuts)] and identity not in control and piece.isascii()
        spelled.extend([i for letter in piece for i in renderer.encode(letter)] if split else [identity])
    return spelled


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_prompt_is_what_the_tokenizer_itself_makes_of_it(kind, renderers, data):
    if kind not in renderers:
        pytest.skip("the embedded model is not there yet")
    renderer = renderers[kind]
    contents = data.draw(st.lists(calm, min_size=1, max_size=4))
    roles = ["user", "assistant"] * 2
    messages = [Message(role=role, content=c) for role, c in zip(roles, contents, strict=False)]
    tools = data.draw(st.sampled_from([[], [BASH]])) if kind != "plain" else []
    theirs = renderer._tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        tools=[{"type": "function", "function": {"name": t.name, "description": t.description,
                "parameters": t.parameters}} for t in tools] or None,
        add_generation_prompt=True,
        return_dict=False,
    )  # fmt: skip
    assert renderer.prompt(messages, tools) == theirs


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_content_never_becomes_a_control_token(kind, renderers, data):
    if kind not in renderers:
        pytest.skip("the embedded model is not there yet")
    renderer = renderers[kind]
    system, user, answer = data.draw(st.tuples(wild, wild, wild))

    def conversation(*contents: str) -> list[Message]:
        call = ToolCall(id="call0", name="bash", arguments={"command": contents[2]})
        return [
            Message(role="system", content=contents[0]),
            Message(role="user", content=contents[1]),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content=contents[2], tool_call_id="call0"),
        ]

    hostile, tame = conversation(system, user, answer), conversation("a", "b", "c")
    tool = Tool(name="bash", description=system, parameters={"type": "object", user: {}})
    ids = renderer.prompt(hostile, [tool])
    assert control_ids(renderer, ids) == control_ids(renderer, renderer.prompt(tame, [BASH]))
    assert answer.strip() in renderer.decode(ids)
    start, completion = renderer.prompt(tame[:2], []), renderer.completion(tame[:2], tame[2], [])
    tail = renderer.extend(start, completion, tame[:3], hostile[3:], [])[len(start) + len(completion) :]
    tame_tail = renderer.extend(start, completion, tame[:3], tame[3:], [])[len(start) + len(completion) :]
    assert control_ids(renderer, tail) == control_ids(renderer, tame_tail)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_extending_keeps_the_ids_and_tells_what_the_template_tells(kind, renderers, data):
    if kind not in renderers:
        pytest.skip("the embedded model is not there yet")
    renderer = renderers[kind]
    messages = [Message(role="user", content=data.draw(wild))]
    ids = renderer.prompt(messages, [BASH])
    for _ in range(data.draw(st.integers(1, 3))):
        message = data.draw(said(st.integers(0, 1 if kind == "llama" else 2)))
        completion = renderer.completion(messages, message, [BASH])
        completion = clumsy(renderer, completion, data.draw(st.lists(st.booleans(), min_size=1, max_size=5)))
        sampled = completion[:-1] if data.draw(st.booleans()) else completion  # cut off, or ended by its stop token
        new = follow_ups(message, data.draw(st.lists(wild, min_size=1, max_size=2)))
        following = renderer.extend(ids, sampled, [*messages, message], new, [BASH])
        assert following[: len(ids) + len(completion)] == ids + completion
        messages, ids = [*messages, message, *new], following
        assert renderer.decode(ids) == renderer.decode(renderer.prompt(messages, [BASH]))
        assert ids[-5:] == renderer.prompt(messages, [BASH])[-5:]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_the_template_writes_is_parsed_back(kind, renderers, data):
    if kind not in renderers:
        pytest.skip("the embedded model is not there yet")
    renderer = renderers[kind]
    message = data.draw(said(st.integers(0, 1 if kind == "llama" else 3)))
    before = [Message(role="user", content="go")]
    found = renderer.parse(renderer.completion(before, message, [BASH]))
    assert found.malformed is None
    assert found.tool_calls == message.tool_calls
    if not (kind == "llama" and message.tool_calls):  # that template writes no text beside a call
        assert found.content.strip() == message.content


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_sampled_ids_are_kept_or_refused_by_name(kind, renderers, data):
    if kind not in renderers:
        pytest.skip("the embedded model is not there yet")
    renderer = renderers[kind]
    messages = [Message(role="user", content="go")]
    prompt = renderer.prompt(messages, [])
    hints = st.sampled_from([renderer.encode(t) for t in ["<think>", "<tool_call>", '{"name": "x"', "}", "</think>"]])
    pieces = data.draw(st.lists(hints | st.lists(st.integers(0, renderer.vocab_size - 1), max_size=4), max_size=5))
    sampled = [i for piece in pieces for i in piece]
    message = renderer.parse(sampled)
    assert message.role == "assistant"
    try:
        ids = renderer.extend(prompt, sampled, [*messages, message], [Message(role="user", content="?")], [])
    except PrefixBroken:
        assert message.reasoning
        return
    assert ids[: len(prompt) + len(sampled)] == prompt + sampled
    if sampled and sampled[-1] in renderer.stop_ids:
        assert ids[len(prompt) + len(sampled)] not in renderer.stop_ids
    else:
        assert ids[len(prompt) + len(sampled)] == renderer.stop_ids[0]


def test_the_turn_end_leads_the_stop_ids(renderers):
    stops = {kind: renderer.decode(renderer.stop_ids) for kind, renderer in renderers.items()}
    assert stops["chatml"] == "<|im_end|>"
    assert stops["llama"] == "<|eot_id|><|end_of_text|>"
    assert stops["rewriter"] == "<|im_end|><|endoftext|>"


def test_a_template_that_drops_reasoning_breaks_the_prefix_and_prompt_goes_on(renderers):
    renderer = renderers["rewriter"]
    messages = [Message(role="user", content="1+1?")]
    prompt, sampled = renderer.prompt(messages, []), renderer.encode("<think>\ntwo\n</think>\n\n2<|im_end|>")
    messages.append(renderer.parse(sampled))
    assert messages[-1] == Message(role="assistant", content="2", reasoning="two")
    tool = [Message(role="tool", content="right")]  # not a user: this template keeps the reasoning here
    following = renderer.extend(prompt, sampled, messages, tool, [])
    assert following[: len(prompt + sampled)] == prompt + sampled
    user = [Message(role="user", content="2+2?")]
    with pytest.raises(PrefixBroken, match="reasoning"):
        renderer.extend(prompt, sampled, messages, user, [])
    assert "two" not in renderer.decode(renderer.prompt([*messages, *user], []))
    messages += [*tool, Message(role="assistant", content="so")]
    with pytest.raises(PrefixBroken, match="earlier messages"):  # an earlier turn is told otherwise now
        renderer.extend(following, renderer.encode("so<|im_end|>"), messages, user, [])


def test_reasoning_goes_through_its_own_key_where_the_template_knows_it(renderers):
    renderer = renderers["chatml"]
    messages = [Message(role="user", content="1+1?")]
    message = Message(role="assistant", content="2", reasoning="a <|im_end|> b")
    ids = renderer.completion(messages, message, [])
    assert renderer.decode(ids) == "<think>\na <|im_end|> b\n</think>\n\n2<|im_end|>"
    assert ids.count(renderer.stop_ids[0]) == 1
    assert renderer.parse(ids) == message
    user = [Message(role="user", content="2+2?")]
    prompt = renderer.prompt(messages, [])
    assert renderer.extend(prompt, ids, [*messages, message], user, []) == renderer.prompt(
        [*messages, message, *user], []
    )


def test_what_a_template_refuses_is_told(renderers):
    call = ToolCall(id="call0", name="bash", arguments={})
    messages = [Message(role="user", content="x"), Message(role="assistant", tool_calls=(call, call))]
    with pytest.raises(TemplateRefused, match="only single tool-calls at once"):
        renderers["llama"].prompt(messages, [])
    with pytest.raises(ValueError, match="assistant"):
        renderers["chatml"].extend([1], [2], messages[:1], [], [])


def test_a_template_without_tools_and_system_gets_them_in_the_text(renderers):
    renderer = renderers["plain"]
    calls = tuple(ToolCall(id=f"call{n}", name="bash", arguments={"command": c}) for n, c in enumerate(["ls", "é"]))
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="go"),
        Message(role="assistant", content="So:", tool_calls=calls),
        Message(role="tool", content="a.txt", tool_call_id="call0"),
        Message(role="tool", content="", tool_call_id="call1"),
        Message(role="user", content="on"),
    ]
    written = renderer.decode(renderer.prompt(messages, [BASH]))
    assert written.startswith("<start>user\nBe brief.\n\n# Tools\n")
    assert '{"type": "function", "function": {"name": "bash", "description": "Run a command."' in written
    assert written.endswith(
        "\n\ngo<end>\n<start>assistant\nSo:\n"
        '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "bash", "arguments": {"command": "é"}}\n</tool_call><end>\n'
        "<start>user\n<tool_response>\na.txt\n</tool_response>\n<tool_response>\n\n</tool_response>\non<end>\n"
        "<start>assistant\n"
    )


def test_every_template_lists_a_tool_without_parameters(renderers):
    for renderer in renderers.values():
        ids = renderer.prompt(
            [Message(role="user", content="go")], [Tool(name="submit", description="", parameters={})]
        )
        assert "submit" in renderer.decode(ids)


def test_halves_of_surrogate_pairs_do_not_stop_anybody(renderers):
    renderer = renderers["chatml"]
    assert "a\ufffdb" in renderer.decode(renderer.prompt([Message(role="user", content="a\ud800b")], []))


PICKY = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for c in m.tool_calls or [] %}
{%- if c.id | length != 9 %}{{- raise_exception('nine letters or digits') }}{%- endif %}
{{- '[TOOL_CALLS][{"name": "' + c.function.name + '", "arguments": ' }}{{ c.function.arguments }}
{{- ', "id": "' + c.id + '"}]' }}
{%- endfor %}{{- '<|im_end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>' }}{%- endif %}
"""


def test_a_template_that_wants_text_arguments_and_nine_letter_ids_gets_them(tmp_path, make_model_dir):
    special = ["<|im_start|>", "<|im_end|>"]
    renderer = Renderer.from_dir(make_model_dir(tmp_path, PICKY, special, [], eos_token="<|im_end|>"))
    call = ToolCall(id="call0", name="bash", arguments={"command": "é"})
    rendered = renderer.decode(renderer.prompt([Message(role="assistant", tool_calls=(call,))], []))
    written = '[TOOL_CALLS][{"name": "bash", "arguments": {"command": "é"}, "id": "0000call0"}]'
    assert written in rendered
    found = renderer.parse(renderer.encode("I see</think>" + written + "<|im_end|>"))  # the prompt opened <think>
    assert found == Message(role="assistant", reasoning="I see", tool_calls=(call,))


def test_a_metaspace_unigram_tokenizer_is_served_alike(metaspace_dir):
    renderer = Renderer.from_dir(metaspace_dir)
    messages = [Message(role="user", content="the quick fox"), Message(role="assistant", content=" the fox")]
    dicts = [{"role": m.role, "content": m.content} for m in messages]
    theirs = renderer._tokenizer.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
    assert renderer.prompt(messages, []) == theirs
    hostile = [Message(role="user", content="the </s> fox <s><unk>")]
    ids = renderer.prompt(hostile, [])
    start, end = (renderer._tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>"))
    assert [i for i in ids if i in (start, end)] == [start]
    assert "the </s> fox <s><unk>" in renderer.decode(ids)
    following = renderer.extend(ids, [end], [*hostile, messages[1]], messages[:1], [])
    assert following == [*ids, *renderer.encode("</s>U: the quick fox A:")]


def test_the_hash_names_tokenizer_and_template(model_dirs, renderers, tmp_path):
    def copy(name: str, template: str | None = None) -> str:
        target = shutil.copytree(model_dirs["chatml"], tmp_path / name)
        if template is not None:
            (target / "chat_template.jinja").write_text(template)
        return Renderer.from_dir(target).hash

    source = (model_dirs["chatml"] / "chat_template.jinja").read_text()
    assert copy("same") == renderers["chatml"].hash
    assert copy("template", source + " ") != renderers["chatml"].hash
    assert renderers["rewriter"].hash != renderers["chatml"].hash


def test_a_directory_that_lacks_something_is_named(model_dirs, tmp_path):
    def broken(name: str, change) -> str:
        target = shutil.copytree(model_dirs["chatml"], tmp_path / name)
        change(target)
        with pytest.raises(UserError) as caught:
            Renderer.from_dir(target)
        assert str(target) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(UserError, match="is no directory"):
        Renderer.from_dir(tmp_path / "absent")
    assert "holds no tokenizer" in broken("a", lambda d: (d / "tokenizer.json").unlink())
    assert "no chat template" in broken("b", lambda d: (d / "chat_template.jinja").unlink())
    assert "cannot be loaded" in broken("c", lambda d: (d / "tokenizer.json").write_text("{"))
    assert "refuses" in broken("d", lambda d: (d / "chat_template.jinja").write_text("{% if %}"))
    assert "ends no assistant turn" in broken("e", lambda d: (d / "chat_template.jinja").write_text("{{ messages }}"))
    assert "generation_config.json" in broken("f", lambda d: (d / "generation_config.json").write_text("["))


def test_importing_the_chat_area_imports_neither_torch_nor_transformers():
    program = """
    import sys
    import palmette.chat.template, palmette.trajectory.convert, palmette.trajectory.store
    assert not {"torch", "transformers", "tokenizers", "jinja2"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_stop_ids_come_from_the_generation_config_too(model_dirs, tmp_path):
    target = shutil.copytree(model_dirs["chatml"], tmp_path / "m")
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    assert Renderer.from_dir(target).stop_ids == (2, 0)
