"""Words to tokens and back through a model's own tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from palmette.chat.control import Control
from palmette.chat.form import Form, find_form, schema, tell
from palmette.chat.live import Live
from palmette.chat.message import Message, Tool
from palmette.chat.mould import Moulds
from palmette.chat.opening import PROBE, Shape, find_shape, opening
from palmette.chat.parse import BEGINNINGS, BEGINNINGS_AT_START, hermes, read, syntaxes_of
from palmette.chat.stand_in import Going, is_time_to_ask, probes, stand_in
from palmette.errors import UserError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_PROBE = "palmetteprobe"


class PrefixBroken(Exception):
    """The template tells an earlier part of the conversation otherwise than it was told; render it anew."""


class TemplateRefused(UserError):
    """The template does not accept this conversation; its text says what the template objects to."""


class Renderer:
    """The chat side of one model directory; e.g. ``Renderer.from_dir(path).prompt([Message(role="user", ...)], [])``.

    Content is never tokenised into control tokens (see `palmette.chat.control`). `hash` names tokenizer and template:
    two models with the same hash read the same ids as the same words. Safe to use from several threads.
    """

    def __init__(self, tokenizer: Any, source: Path, stop_ids: Iterable[int] = ()) -> None:
        """Take a fast `transformers` tokenizer with a chat template; `stop_ids` in addition to those it names."""
        self.source = source
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        template = tokenizer.chat_template
        self._template = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        self._form = Form()
        ends = [i for i in (tokenizer.eos_token_id, *stop_ids) if i is not None]
        self._control = Control(self._backend, ends, self._template)
        end = self._find_end()
        if end not in self._control.special_ids:
            self._control = Control(self._backend, [end, *ends], self._template)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((end, *ends)))
        self._form = find_form(self._try)
        self._syntaxes = (hermes,) if self._form.calls_in_text else syntaxes_of(self._template)
        begun = self._render([Message(role="user", content=_PROBE)], (), generation=True)
        self._thinking = begun.rstrip().endswith(self._control.seal("<think>"))
        self._local = self._goes_on_locally()
        self._moulds = self._make_moulds()
        self._shape: Shape | None = None  # of calls, once somebody must make one
        self.vocab_size: int = len(tokenizer)
        self.hash: str = self._hash()

    @classmethod
    def from_dir(cls, model_dir: Path) -> Renderer:
        """Load tokenizer and chat template of a Hugging Face model directory, from local files only.

        Raises `UserError` naming the directory and what it lacks.
        """
        path = Path(model_dir)
        if not path.is_dir():
            raise UserError(f"{path} is no directory; give the directory of a model")
        if not any((path / name).exists() for name in _TOKENIZER_FILES) and not list(path.glob("*.tiktoken")):
            raise UserError(f"{path} holds no tokenizer; put tokenizer.json and tokenizer_config.json there")
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        except Exception as error:  # OSError, ValueError, ImportError, or the tokenizers library's plain Exception
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"{path}: the tokenizer cannot be loaded ({reason}); mend or replace its files") from None
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"{path}: the tokenizer has no fast form; convert it to a tokenizer.json")
        if not tokenizer.chat_template:
            raise UserError(f"{path} has no chat template; put chat_template.jinja there")
        return cls(tokenizer, path, _generation_stop_ids(path))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """Return the ids of the whole conversation up to where the assistant speaks. Raises `TemplateRefused`."""
        return self._control.encode(self._render(messages, tools, generation=True))

    def extend(
        self,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        messages: Sequence[Message],
        new: Sequence[Message],
        tools: Sequence[Tool],
    ) -> list[int]:
        """Return the ids of the next prompt, in which `prompt_ids` and `completion_ids` stay exactly as they were.

        `messages` is the conversation up to and including the parsed assistant message, `new` what came after it. Only
        what the template writes behind the turn's end token is tokenised; a completion that was cut off gets that
        token as given. Raises `PrefixBroken` when the template tells earlier messages, or the reasoning of this turn,
        otherwise now than in the last prompt: then `prompt` is the caller's way on. Raises `TemplateRefused`.
        """
        return [*prompt_ids, *completion_ids, *self.onward(completion_ids, messages, new, tools)]

    def onward(
        self, completion_ids: Sequence[int], messages: Sequence[Message], new: Sequence[Message], tools: Sequence[Tool]
    ) -> list[int]:
        """Return what `extend` puts behind the completion, at a cost that grows with what is new (see `stand_in`).

        Raises what `extend` raises.
        """
        if not messages or messages[-1].role != "assistant":
            raise ValueError("messages must end with the assistant message that was sampled")
        tail = self._control.encode(self._told_next(messages, new, tools))
        stopped = len(completion_ids) > 0 and completion_ids[-1] in self.stop_ids
        return tail[1:] if stopped else tail

    def completion(self, messages: Sequence[Message], message: Message, tools: Sequence[Tool]) -> list[int]:
        """Return the ids that say `message` after ``prompt(messages, tools)``, its end token included.

        This is how a demonstration is written. Raises `PrefixBroken` if the template does not go on from its own
        prompt, `TemplateRefused`, and `ValueError` for a message that is not the assistant's.
        """
        if message.role != "assistant":
            raise ValueError(f"a completion is what the assistant says, not the {message.role}")
        before = self._render(messages, tools, generation=True)
        whole = self._render([*messages, message], tools, generation=False)
        end = self._turn_end(before, whole)
        prompt, full = self._control.encode(before), self._control.encode(whole[: end.end()])
        if full[: len(prompt)] == prompt:
            return full[len(prompt) :]
        return self._control.encode(whole[len(before) : end.end()])  # the two would merge across the border

    def call_opening(self, names: Sequence[str]) -> list[int]:
        """Return the ids, as many as can be told yet, of an answer that begins with a call of one of the tools `names`.

        Raises `TemplateRefused` for a template that writes no calls which could be read back.
        """
        self._shape = self._shape or self._find_shape()
        ids = opening(self._shape, names, self._control.hide, self._control.encode)
        if not ids:
            raise TemplateRefused(f"{self.source}: the calls of this template have no common beginning")
        return ids

    def parse(self, completion_ids: Sequence[int]) -> Message:
        """Return the assistant message that was sampled, without its stop token; see `palmette.chat.parse`.

        Never raises: a tool call that cannot be read is told in `malformed`.
        """
        ids = list(completion_ids)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        return self.parse_text(self.decode(ids))

    def parse_text(self, text: str) -> Message:
        """Return the assistant message that a text says, control tokens and all; as `parse` otherwise."""
        return read(text, self._syntaxes, thinking=self._thinking)

    def live(self) -> Live:
        """Return a follower of one answer that is being sampled; see `palmette.chat.live`."""
        from tokenizers.decoders import DecodeStream

        stream: Any = DecodeStream(skip_special_tokens=False)

        def step(token_id: int) -> str | None:
            nonlocal stream
            try:
                return stream and stream.step(self._backend, token_id)
            except Exception:  # of no narrower type: this decoder cannot decode piece by piece
                stream = None
                return None

        return Live(
            step,
            marks=[mark for syntax in self._syntaxes for mark in BEGINNINGS[syntax]],
            marks_at_start=[mark for syntax in self._syntaxes for mark in BEGINNINGS_AT_START.get(syntax, ())],
            thinking=self._thinking,
            silent=self.stop_ids,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, control tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, in which control strings become control tokens: for text that can be trusted."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def _told_next(self, messages: Sequence[Message], new: Sequence[Message], tools: Sequence[Tool]) -> str:
        """Return the sealed text behind an answer, its end token first; behind a stand-in of the history if that does.

        Raises `PrefixBroken`, `TemplateRefused`.
        """
        short = stand_in(messages, new, tools) if self._local else None
        if short is None:
            return self._told_behind(messages, new, tools)
        told = self._moulds.fill(short, self._control.hide) if self._moulds else None
        try:
            told = told or self._told_behind(short.messages, short.new, short.tools)
        except (PrefixBroken, TemplateRefused):
            return self._told_behind(messages, new, tools)
        if not is_time_to_ask(messages, new):
            return told
        try:
            whole = self._told_behind(messages, new, tools)
        except PrefixBroken:
            self._local = False
            raise
        self._local = self._local and whole == told
        return whole

    def _told_behind(self, messages: Sequence[Message], new: Sequence[Message], tools: Sequence[Tool]) -> str:
        """Return the sealed text behind an answer, its end token first: that may swallow what follows it."""
        before = self._render(messages[:-1], tools, generation=True)
        whole = self._render([*messages, *new], tools, generation=True)
        end = self._turn_end(before, whole)
        reasoning = self._control.hide(messages[-1].reasoning or "", marks=False).strip()
        if self._control.seal(reasoning) not in whole[len(before) : end.start()]:
            raise PrefixBroken(f"the template of {self.source} drops the reasoning of an earlier turn")
        return whole[end.start() :]

    def _goes_on_locally(self) -> bool:
        """Say whether the template goes on from every probe as it does from the probe's stand-in."""
        for probe in probes():
            short = stand_in(probe.messages, probe.new, probe.tools)
            if short is not None and not self._agree(probe, short):
                return False
        return True

    def _make_moulds(self) -> Moulds | None:
        """Return the template's moulds, None for one that changes ids of calls, or is several."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = self._tokenizer.chat_template
        if self._form.short_ids or not isinstance(template, str):
            return None

        def tell(going: Going) -> str | None:
            try:
                return self._told_behind(going.messages, going.new, going.tools)
            except (PrefixBroken, TemplateRefused):
                return None

        return Moulds(template, _compile_jinja_template(template).environment, tell, self._control.added)

    def _agree(self, probe: Going, short: Going) -> bool:
        try:
            told = self._told_behind(short.messages, short.new, short.tools)
        except (PrefixBroken, TemplateRefused):
            return True  # then the whole is told
        try:
            return told == self._told_behind(probe.messages, probe.new, probe.tools)
        except (PrefixBroken, TemplateRefused):
            return False

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, generation: bool, form: Form | None = None
    ) -> str:
        """Return the sealed text of a conversation (see `Control`)."""
        from jinja2 import TemplateError

        form = form or self._form
        told = tell(messages, tools, form, self._control.hide)
        offered = [] if form.tools_in_text else [schema(tool, self._control.hide) for tool in tools]
        try:
            text = self._tokenizer.apply_chat_template(
                told, tools=offered or None, add_generation_prompt=generation, tokenize=False
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise TemplateRefused(f"{self.source}: the chat template refuses this conversation: {error}") from None
        return self._control.seal(text)

    def _try(self, messages: Sequence[Message], tools: Sequence[Tool], form: Form) -> str | None:
        try:
            return self._render(messages, tools, generation=False, form=form)
        except TemplateRefused:
            return None

    def _turn_end(self, before: str, whole: str) -> re.Match[str]:
        """Return where the turn that follows `before` ends in `whole`: its end token."""
        if not whole.startswith(before):
            raise PrefixBroken(f"the template of {self.source} tells earlier messages otherwise than before")
        end = self._control.find(whole, len(before), self.stop_ids)
        if end is None:
            raise PrefixBroken(f"the template of {self.source} does not end this turn")
        return end

    def _find_end(self) -> int:
        """Return the id of the token that the template puts behind what an assistant says."""
        user = Message(role="user", content="?")
        said = [user, Message(role="assistant", content=_PROBE), user]
        text = self._render(said, (), generation=False)
        start = text.find(_PROBE) + len(_PROBE)
        end = self._control.find(text, start)
        if _PROBE not in text or end is None or text[start : end.start()].strip():
            raise UserError(f"{self.source}: the chat template ends no assistant turn with a control token; mend it")
        return self._control.id_of(end[0])

    def _find_shape(self) -> Shape:
        """Return what the template writes around a call. Raises `TemplateRefused`."""
        user = [Message(role="user", content="?")]
        try:
            before = self._render(user, (), generation=True)
            whole = self._render([*user, PROBE], (), generation=False)
            written = whole[len(before) : self._turn_end(before, whole).start()]
        except PrefixBroken as broken:
            raise TemplateRefused(str(broken)) from None
        shape = find_shape(written)
        if shape is None or self.parse(self._control.encode(written)).tool_calls != PROBE.tool_calls:
            raise TemplateRefused(f"{self.source}: the template writes no calls that could be read back")
        return shape

    def _hash(self) -> str:
        parts = [json.loads(self._backend.to_str()), self._template, self._tokenizer.special_tokens_map]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _generation_stop_ids(model_dir: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        path = model_dir / name
        if path.exists():
            try:
                found = json.loads(path.read_text()).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise UserError(f"{path} cannot be read ({error}); mend or remove it") from None
            if found is not None:
                return tuple(found) if isinstance(found, list) else (found,)
    return ()
