"""What a template writes behind an answer, with holes for what is said: rendered once a shape, then filled.

To run a template takes half of what a turn costs, and writes the same frame around other words each time. So for every
shape of a conversation's end (roles, names of calls, blanks around texts) the frame is found by rendering with
placeholders, and must come out the same for placeholders that are long, quoted, spaced and not ASCII. A text goes into
a hole only when it gives the template nothing to look at: strings that the template searches for, strips or compares
with (read from its syntax tree) make it another text. What does not fit is rendered as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palmette.chat.message import Message, ToolCall
from palmette.chat.stand_in import Going

_KEPT = 512  # shapes
_MOST_BLANKS = 32  # around a text
_HOLE = re.compile(r"hole([0-9]+)End")
_MARKED = re.compile(r"[<>\[\]{}|#]")
_SEARCHES = frozenset({"split", "rsplit", "partition", "rpartition", "replace", "find", "rfind", "index", "count"})
_EDGES = frozenset({"startswith", "endswith", "removeprefix", "removesuffix"})
_STRIPS = frozenset({"strip", "lstrip", "rstrip"})

Hide = Callable[[str], str]


class Moulds:
    """The frames of one template, found as they are needed. To be used from several threads.

    `tell` renders a conversation and returns what stands behind its answer, control strings as aliases (None where the
    template will not); `added` are the tokenizer's added tokens. `environment` is the Jinja environment of `template`.
    """

    def __init__(
        self, template: str, environment: Any, tell: Callable[[Going], str | None], added: Iterable[str]
    ) -> None:
        self._looks = _Looks(environment.parse(template))
        self._tell = tell
        self._added = tuple(added)
        self._frames: dict[Any, _Frame | None] = {}

    def fill(self, going: Going, hide: Hide) -> str | None:
        """Return what the template writes behind the answer of `going`, None if that is not known.

        `hide` hides the control strings of a text.
        """
        texts = _Texts(going, apart=self._looks.strips)
        if any(message.role == "assistant" for message in going.new) or not all(map(self._looks.past, texts.values())):
            return None
        shape, frames = texts.shape(), self._frames
        if shape not in frames:
            if len(frames) >= _KEPT:
                frames = self._frames = {}
            frames[shape] = self._found(going)
        frame = frames[shape]
        return frame.filled(texts.inner, hide) if frame is not None else None

    def _found(self, going: Going) -> _Frame | None:
        """Return the frame of a conversation's shape, None where what is said changes more than itself."""
        apart = self._looks.strips
        odd = _spoken(going, _ODD, apart=apart, around=_BLANKS)
        told, expected = self._tell(_spoken(going, _PLAIN, apart=apart)), self._tell(odd)
        if told is None or expected is None:
            return None
        frame, texts = _Frame.cut(told), _Texts(odd, apart=apart)
        if frame.filled(texts.inner, str) != expected or not set(frame.numbers) <= texts.whole:
            return None
        return None if frame.touches(self._added) else frame


_PLAIN = "hole%dEnd"
_BLANKS = "\n \t"  # around what was said before, which must not matter
_ODD = "Xé\"'\\n%d\n\n\t  <&amp;> " + "lorem Ipsum, {}; " * 120 + "\\u00e9 7ß"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Texts with numbered holes between them: ``parts[0]``, hole ``numbers[0]``, ``parts[1]``..."""

    parts: tuple[str, ...]
    numbers: tuple[int, ...]

    @classmethod
    def cut(cls, told: str) -> _Frame:
        """Take a text apart at the placeholders."""
        pieces = _HOLE.split(told)
        return cls(tuple(pieces[::2]), tuple(map(int, pieces[1::2])))

    def filled(self, texts: Sequence[str], hide: Hide) -> str:
        """Return the text with every hole filled."""
        said = [self.parts[0]]
        for number, part in zip(self.numbers, self.parts[1:], strict=True):
            said += (hide(texts[number]), part)
        return "".join(said)

    def touches(self, added: Sequence[str]) -> bool:
        """Say whether an added token could begin in a part and end in a hole, or the other way round."""
        ends, starts = self.parts[:-1], self.parts[1:]
        return any(_meets(end, token) for end in ends for token in added) or any(
            _meets(token, start) for start in starts for token in added
        )


class _Texts:
    """The texts of a conversation by number, message by message: content, reasoning, ids of calls; no empty ones.

    `inner` are the texts, without the blanks around them if these are kept `apart`, and `whole` the numbers of those
    that a stand-in does not shorten.
    """

    def __init__(self, going: Going, *, apart: bool) -> None:
        self._going = going
        self._messages = (*going.messages, *going.new)
        self.inner: list[str] = []
        self.whole: set[int] = set()
        self._blanks: list[tuple[str, str]] = []
        self._before = 0  # texts up to the answer
        for at, message in enumerate(self._messages):
            said = [text for text in (message.content, message.reasoning) if text]
            for number, text in enumerate((*said, *_ids_of(message))):
                core = text.strip() if apart else text
                start = text.find(core)
                self._blanks.append((text[:start], text[start + len(core) :]))
                if at < len(going.messages):
                    self._before = len(self._blanks)
                if at >= len(going.messages) or number >= len(said):
                    self.whole.add(len(self.inner))
                self.inner.append(core)

    def values(self) -> Iterator[tuple[str, str, str]]:
        """Yield every text: the blanks before it, the text between, the blanks after it."""
        for (before, after), core in zip(self._blanks, self.inner, strict=True):
            yield before, core, after

    def shape(self) -> Any:
        """Return all but the texts."""
        calls = {call.id: number for number, call in enumerate(_calls(self._messages))}
        told = tuple(
            (
                message.role,
                bool(message.content),
                message.reasoning and True,
                tuple(call.name for call in message.tool_calls),
                message.tool_call_id and calls.get(message.tool_call_id, -1),
            )
            for message in self._messages
        )
        tools = tuple(tool.name for tool in self._going.tools)
        return len(self._going.messages), told, tools, tuple(self._blanks[self._before :])


class _Looks:
    """What a template looks for in texts, read from its syntax tree."""

    def __init__(self, tree: Any) -> None:
        from jinja2 import nodes

        def strings(node: Any) -> list[str]:
            found = [node, *node.find_all(nodes.Const)] if isinstance(node, nodes.Node) else []
            return [one.value for one in found if isinstance(one, nodes.Const) and isinstance(one.value, str)]

        self._equal = frozenset(strings(tree))
        self._within = {text for text in self._equal if len(text) > 2 and _MARKED.search(text)}
        self._edges: set[str] = set()
        self.strips = False  # whether blanks around a text matter
        self._stripped = ""
        self._around: list[str] = []  # texts that are looked for others in
        for call in tree.find_all(nodes.Call):
            name = call.node.attr if isinstance(call.node, nodes.Getattr) else ""
            given = [text for argument in call.args for text in strings(argument)]
            if name in _SEARCHES:
                self._within.update(given or " \n\t")
            elif name in _EDGES:
                self._edges.update(given)
            elif name in _STRIPS:
                self.strips = True
                self._stripped += "".join(given)
        for filtered in tree.find_all(nodes.Filter):
            given = [text for argument in filtered.args for text in strings(argument)]
            if filtered.name in ("replace", "split"):
                self._within.update(given)
            elif filtered.name == "trim":
                self.strips = True
                self._stripped += "".join(given)
        for compared in tree.find_all(nodes.Compare):
            for operand in compared.ops:
                if operand.op in ("in", "notin"):
                    self._within.update(strings(compared.expr) if isinstance(compared.expr, nodes.Const) else ())
                    self._around += strings(operand.expr)
        self._begins = tuple(text for text in self._edges if text)

    def past(self, text: tuple[str, str, str]) -> bool:
        """Say whether the template sees nothing in a text (blanks, text, blanks) but a text."""
        before, core, after = text
        if not core.strip() or len(before) + len(after) > _MOST_BLANKS:
            return False
        if core[0] in self._stripped or core[-1] in self._stripped:
            return False
        whole = before + core + after if before or after else core
        if whole in self._equal or core in self._equal or any(core in text for text in self._around):
            return False
        if any(text in whole for text in self._within):
            return False
        return not (
            core.startswith(self._begins)
            or core.endswith(self._begins)
            or whole.startswith(self._begins)
            or whole.endswith(self._begins)
        )


def _ids_of(message: Message) -> list[str]:
    return [text for text in (*(call.id for call in message.tool_calls), message.tool_call_id) if text]


def _calls(messages: Iterable[Message]) -> Iterator[ToolCall]:
    return (call for message in messages for call in message.tool_calls)


def _spoken(going: Going, form: str, *, apart: bool, around: str = "") -> Going:
    """Return the conversation with numbered placeholders for its texts, blanks around them kept if these are `apart`.

    Where blanks must not matter there are more of them, `around` the placeholder.
    """
    number = iter(range(1 << 30))
    ids: dict[str, str] = {}

    def held(text: str, more: str = "") -> str:
        return more + text.replace(text.strip() if apart else text, form % next(number), 1) + more

    def told(message: Message, more: str = "") -> Message:
        content = held(message.content, more) if message.content else ""
        reasoning = held(message.reasoning, more) if message.reasoning else message.reasoning
        calls = []
        for call in message.tool_calls:
            ids[call.id] = held(call.id)
            calls.append(replace(call, id=ids[call.id], arguments={"a": form % 0}))
        answered = message.tool_call_id
        if answered:
            own = held(answered)
            answered = ids.get(answered, own)
        return replace(message, content=content, reasoning=reasoning, tool_calls=tuple(calls), tool_call_id=answered)

    messages = tuple(told(message, around) for message in going.messages)
    new = tuple(told(message, "" if apart else around) for message in going.new)
    return replace(going, messages=messages, new=new)


def _meets(end: str, token: str) -> bool:
    """Say whether a beginning of `token`, not all of it, is the end of `end`."""
    return any(end.endswith(token[:length]) for length in range(1, len(token)))
