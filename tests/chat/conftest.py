"""Model directories, made here: a small byte-level BPE each, with templates of several kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from palmette.chat.template import Renderer

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\nSignatures within <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n\\nAnswer with <tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <object>}\\n</tool_call>" }}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or message.content %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

LLAMA = """\
{{- bos_token }}
{%- for message in messages %}
    {%- set role = 'ipython' if message.role == 'tool' else message.role %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('only single tool-calls at once') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- else %}
        {{- message.content | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
    {%- if loop.first and tools %}
        {{- '<|start_header_id|>system<|end_header_id|>\\n\\nTools:' }}
        {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}{{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

REWRITER = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for tool in tools or [] %}{{- tool | tojson + '\\n' }}{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and '</think>' in message.content and loop.index0 < ns.last %}
        {{- message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments + '}' }}
        {{- '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

PLAIN = """\
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}{{- raise_exception('only user and assistant') }}{%- endif %}
    {%- if loop.previtem and loop.previtem.role == message.role %}{{- raise_exception('take turns') }}{%- endif %}
    {{- '<start>' + message.role + '\\n' + message.content + '<end>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start>assistant\\n' }}{%- endif %}
"""

WORDS = ["the quick brown fox", '{"name": "bash", "arguments": {"command": "ls -la"}}', "def f(x):\n    return x\n"] * 5


def write_model_dir(path: Path, template: str | None, special: list[str], marks: list[str], **config: str) -> Path:
    """Train a byte-level BPE and save it the way a Hugging Face model directory holds it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **config)
    fast.chat_template = template
    fast.save_pretrained(path)
    return path


def write_metaspace_dir(path: Path) -> Path:
    """Save a SentencePiece-like unigram tokenizer, whose first piece alone gets a leading blank."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*WORDS, "<s>/unk"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    turn = "{{ 'U: ' + m.content + ' ' if m.role == 'user' else 'A:' + m.content + '</s>' }}"
    asked = "{% if add_generation_prompt %}A:{% endif %}"
    fast.chat_template = "<s>{% for m in messages %}" + turn + "{% endfor %}" + asked
    fast.save_pretrained(path)
    return path


CHATML_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "chatml": lambda path: write_model_dir(path, CHATML, CHATML_SPECIAL, MARKS, eos_token="<|im_end|>"),
    "llama": lambda path: write_model_dir(
        path,
        LLAMA,
        ["<|begin|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
        [],
        bos_token="<|begin|>",
        eos_token="<|end_of_text|>",
    ),
    "rewriter": lambda path: write_model_dir(path, REWRITER, CHATML_SPECIAL, [], eos_token="<|endoftext|>"),
    "plain": lambda path: write_model_dir(path, PLAIN, ["<start>", "<end>", "<eos>"], [], eos_token="<eos>"),
}


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory) -> dict[str, Path]:
    """Directories by the kind of their template, and the embedded model's where it is there."""
    import palmette

    root = tmp_path_factory.mktemp("models")
    found = {name: make(root / name) for name, make in MAKERS.items()}
    (root / "llama" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4]}))
    embedded = Path(palmette.__file__).parent / "model" / "base"
    return {**found, **({"embedded": embedded} if (embedded / "tokenizer.json").exists() else {})}


@pytest.fixture(scope="session")
def renderers(model_dirs) -> dict[str, Renderer]:
    """Renderers of `model_dirs`."""
    return {name: Renderer.from_dir(path) for name, path in model_dirs.items()}


@pytest.fixture(scope="session")
def make_model_dir() -> Callable[..., Path]:
    """`write_model_dir`."""
    return write_model_dir


@pytest.fixture(scope="session")
def metaspace_dir(tmp_path_factory) -> Path:
    """A directory by `write_metaspace_dir`."""
    return write_metaspace_dir(tmp_path_factory.mktemp("metaspace"))


@pytest.fixture
def changed_chatml(tmp_path: Path) -> Callable[[str, str], Renderer]:
    """Return a maker of renderers whose template is `CHATML` with one text replaced by another."""

    def make(old: str, new: str) -> Renderer:
        assert old in CHATML
        special = ["<|im_start|>", "<|im_end|>"]
        return Renderer.from_dir(
            write_model_dir(tmp_path, CHATML.replace(old, new), special, [], eos_token="<|im_end|>")
        )

    return make
