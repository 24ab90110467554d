"""An optional judge of looks: a model with eyes behind an OpenAI-compatible endpoint says which page is better.

Every pair is asked about twice with the order swapped, because models prefer a side (Zheng et al., "Judging
LLM-as-a-Judge", 2023, section 3.4); answers that follow the side are a draw. Off unless somebody calls it; no reward of
generated tasks depends on it.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass

from palmette.errors import UserError

_ASK_S = 120.0
_QUESTION = (
    "Two renderings of web pages for the same brief follow, first A, then B. Judge the design only: hierarchy, "
    "alignment, spacing, type, colour, and whether anything is broken. Answer with one letter, A or B, or T for a "
    "tie.\n\n"
    "The brief: {brief}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What came of a pair: the share of points of the first page (1, 0.5 or 0), and the two answers as given."""

    first: float
    answers: tuple[str, str]

    @property
    def steady(self) -> bool:
        """Whether the swapped question was answered alike."""
        return self.first != 0.5 or self.answers == ("T", "T")


class VisionJudge:
    """Asks a model, e.g. ``VisionJudge("http://127.0.0.1:8000/v1", "my-model").compare("a shop", png_a, png_b)``."""

    def __init__(self, url: str, model: str, *, key: str = "") -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._key = key

    def compare(self, brief: str, first: bytes, second: bytes) -> Preference:
        """Return which of two PNGs is preferred. Raises `UserError` when the endpoint does not answer as it should."""
        there = self._ask(brief, first, second)
        back = self._ask(brief, second, first)
        points = {"A": 1.0, "B": 0.0, "T": 0.5}
        mean = (points[there] + 1.0 - points[back]) / 2
        first_points = 1.0 if mean > 0.5 else 0.0 if mean < 0.5 else 0.5
        return Preference(first=first_points, answers=(there, back))

    def _ask(self, brief: str, a: bytes, b: bytes) -> str:
        parts = [{"type": "text", "text": _QUESTION.format(brief=brief)}, _image(a), _image(b)]
        body = {"model": self._model, "messages": [{"role": "user", "content": parts}], "temperature": 0}
        request = urllib.request.Request(
            self._url,
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Bearer {self._key or 'none'}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_ASK_S) as response:
                said = json.load(response)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self._url}: no judgement came back ({type(error).__name__}: {error})") from None
        letters = re.findall(r"\b[ABT]\b", said) if isinstance(said, str) else []
        if not letters:
            raise UserError(f"{self._url}: the answer names neither A, B nor T: {str(said)[:80]!r}")
        return letters[-1]


def _image(png: bytes) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}}
