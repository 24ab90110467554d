"""An optional judge of looks: a model with eyes behind an OpenAI-compatible endpoint says which page is better.

Every pair is asked about twice with the order swapped, because models prefer a side (Zheng et al., "Judging
LLM-as-a-Judge", 2023, section 3.4); answers that follow the side are a draw. Off unless somebody calls it; no reward of
generated tasks depends on it.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from palmette.envs.endpoint import ask
from palmette.errors import UserError

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
        self._url = url
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
        said = ask(self._url, self._model, parts, key=self._key, wanted="judgement", temperature=0)
        letters = re.findall(r"\b[ABT]\b", said) if isinstance(said, str) else []
        if not letters:
            raise UserError(f"{self._url}: the answer names neither A, B nor T: {str(said)[:80]!r}")
        return letters[-1]


def _image(png: bytes) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}}
