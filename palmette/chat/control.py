"""Control tokens: only the template may write them, whatever a user, a tool or a file says.

A rendered conversation is one string in which the template's own ``<|im_end|>`` and one that came with a tool's output
look alike. So the content is rendered with private marks in the place of control strings, the template's own control
strings are then replaced by aliases that nobody can guess, and the text is tokenised by a copy of the tokenizer that
knows the control tokens under these aliases only. What stood in the content is thus tokenised as the plain text it is.
Without control strings in the content the ids are the tokenizer's own, which the tests assert.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Control:
    """The control tokens of one tokenizer and template.

    *Special* tokens are those that the tokenizer flags and the stop tokens; *marks* are other added tokens that the
    template mentions (e.g. ``<tool_call>``), which an assistant may write itself but nobody else. `added` are the texts
    of all added tokens.
    """

    def __init__(self, backend: Tokenizer, stop_ids: Iterable[int], template: str) -> None:
        spec = json.loads(backend.to_str())
        stops = set(stop_ids)
        added = {token["content"]: token for token in spec["added_tokens"] if token["content"].strip()}
        special = [text for text, token in added.items() if token["special"] or token["id"] in stops]
        marks = [text for text in added if text in template and text not in special]
        nonce = secrets.token_hex(8)
        self._texts = special + marks
        self._number = {text: number for number, text in enumerate(self._texts)}
        self.special_ids = frozenset(added[text]["id"] for text in special)
        self.added = tuple(added)
        self._special, self._all, self._added = _any_of(special), _any_of(self._texts), _any_of(added)
        self._hidden = re.compile(f"\U000f0002{nonce}([0-9]+)\U000f0003")
        self._hide = f"\U000f0002{nonce}%d\U000f0003"
        self._alias = {text: f"\U000f0000{nonce}{n}\U000f0001" for text, n in self._number.items()}
        self._ids = {alias: added[text]["id"] for text, alias in self._alias.items()}
        self._aliases = _any_of(self._ids)
        self._tokenizer = _renamed(spec, self._alias)
        assert all(self._tokenizer.token_to_id(alias) == identity for alias, identity in self._ids.items())

    def hide(self, value: Any, *, marks: bool = True) -> Any:
        """Return `value` (text, or JSON of it, keys too) with control strings hidden, `marks` among them or not."""
        if isinstance(value, str):
            pattern = self._all if marks else self._special
            return pattern.sub(lambda match: self._hide % self._number[match[0]], _valid(value))
        if isinstance(value, Mapping):
            return {self.hide(key, marks=marks): self.hide(item, marks=marks) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item, marks=marks) for item in value]
        return value

    def seal(self, rendered: str) -> str:
        """Return the rendered text with the control strings left in it, which are the template's own, as aliases."""
        return self._added.sub(lambda match: self._alias.get(match[0], match[0]), rendered)

    def find(self, sealed: str, start: int, among: Iterable[int] | None = None) -> re.Match[str] | None:
        """Return the first alias from `start` on, of those whose id is one of `among` (None: any)."""
        wanted = set(self._ids.values() if among is None else among)
        return next((m for m in self._aliases.finditer(sealed, start) if self._ids[m[0]] in wanted), None)

    def id_of(self, alias: str) -> int:
        """Return the token id that an alias found in a sealed text stands for."""
        return self._ids[alias]

    def encode(self, sealed: str) -> list[int]:
        """Return the ids of a sealed text: aliases as control tokens, hidden strings as plain text."""
        plain = self._hidden.sub(lambda match: self._texts[int(match[1])], sealed)
        return self._tokenizer.encode(plain, add_special_tokens=False).ids


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _valid(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _renamed(spec: dict[str, Any], alias: dict[str, str]) -> Tokenizer:
    """Build the tokenizer of `spec` (its JSON form) with tokens renamed, ids unchanged, nothing added around a text."""
    from tokenizers import Tokenizer

    model = dict(spec["model"])
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {alias.get(text, text): identity for text, identity in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):  # unigram
        model["vocab"] = [[alias.get(text, text), score] for text, score in model["vocab"]]
    if model.get("unk_token") in alias:
        model["unk_token"] = alias[model["unk_token"]]
    added = [{**token, "content": alias.get(token["content"], token["content"])} for token in spec["added_tokens"]]
    changed = {**spec, "model": model, "added_tokens": added, "post_processor": None, "truncation": None}
    return Tokenizer.from_str(json.dumps({**changed, "padding": None}))
